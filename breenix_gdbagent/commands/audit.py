"""``audit``: all checks on any target."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from breenix_gdbagent import run_report
from breenix_gdbagent.checks.examine import Examination, examine, times_of
from breenix_gdbagent.checks.run import facts_of
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.examined import add_run_options, kernel_of, replayed
from breenix_gdbagent.commands.formats import add_format_options, check_formats, write_formats
from breenix_gdbagent.commands.provenance import provenance
from breenix_gdbagent.commands.target import (
    Target,
    add_target_options,
    description,
    explained_snapshot,
    target_of,
)
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.document import History, RunRecord
from breenix_gdbagent.report.model import Report


def run(name: str, argv: list[str]) -> int:
    """``audit``: what `ci` says of a run that we boot, `report` of a file, `snapshot` of a guest as
    it stands; here nothing is expected and nothing written."""
    options = build(name).parse_args(argv)
    target = target_of(options, default_lab=False)
    check_formats(options)
    started = time.monotonic()
    if target.boots:
        return _booted(target, options, started)
    if target.kind == "replay":
        return replay_report(target, started)
    if not target.runs:
        stop, extra = explained_snapshot(target)
        kernel = Kernel(stop)
        seen = examine(kernel.stop, kernel, time.monotonic)
        report = run_report.document_of(kernel, extra, description(target), examined=seen)
        report = _timed(report, seen, started)
        return write_formats(report, options, kernel=kernel)
    with kernel_of(target) as kernel:
        seen = examine(kernel.stop, kernel, time.monotonic)
        report = run_report.finish(
            kernel,
            description(target),
            RunRecord(seconds=kernel.stop.seconds),
            facts_of(kernel.stop.reason),
            History(),
            seen,
        )
        report = _timed(report, seen, started)
        return write_formats(report, options, kernel=kernel)


def build(name: str) -> Parser:
    """The options of `audit`."""
    parser = Parser("breenix-gdbagent audit")
    add_target_options(parser)
    add_run_options(parser)
    add_format_options(parser)
    return parser


def replay_report(target: Target, started: float) -> int:
    """A moment of a recording: its end as the recorded run was told, another as it stands."""
    options = target.options
    with replayed(target) as (player, stop):
        at_end = options.at in (None, "end")
        kernel = Kernel(stop)
        seen = examine(kernel.stop, kernel, time.monotonic)
        extra = player.beside if at_end else None
        document = run_report.document_of(kernel, extra, description(target), examined=seen)
        document = _timed(document, seen, started)
        return write_formats(document, options, kernel=kernel)


def _timed(report: Report, seen: Examination, started: float) -> Report:
    """The document of an examined stop with where it comes from."""
    took = times_of(seen, report.stops[-1].id)
    return replace(report, provenance=provenance(None, time.monotonic() - started, took))


def _booted(target: Target, options: argparse.Namespace, started: float) -> int:
    """A whole run, as `ci` has it."""
    from breenix_gdbagent.commands.machines import open_machine
    from breenix_gdbagent.debugger.debugger import Debugger
    from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders

    machine = open_machine(target)
    with machine.vm as vm:
        orders = Orders(until=options.until, timeout=options.timeout, linger=machine.linger)
        guarded = GuardedRun(Debugger(vm, machine.image), orders, time.monotonic)
        guarded.start()
        ended = guarded.go()
        report = run_report.finish(
            ended.kernel,
            description(target),
            ended.record,
            ended.facts,
            ended.history,
            ended.examined,
            provenance(machine, time.monotonic() - started, ended.took),
        )
        outcome, code = run_report.outcome_of(report.findings, options.fail_on, "examined")
        report = run_report.with_outcome(report, outcome, int(code != 0))
        return write_formats(report, options, kernel=ended.kernel)
