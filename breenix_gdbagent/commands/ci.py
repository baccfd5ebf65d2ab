"""``ci``: boot or watch a kernel and assert that nothing faults and that the audits hold."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent import run_report
from breenix_gdbagent.commands import Parser, no_or_seconds, seconds
from breenix_gdbagent.commands.expectations import (
    Expectation,
    add_expectation_options,
    judge,
    parse_expectation,
    read_baseline,
    write_baseline,
)
from breenix_gdbagent.commands.formats import add_format_options, check_formats, write_formats
from breenix_gdbagent.commands.machines import open_machine
from breenix_gdbagent.commands.output import aside, writable
from breenix_gdbagent.commands.progress import Progress
from breenix_gdbagent.commands.provenance import provenance
from breenix_gdbagent.commands.target import Target, add_target_options, description, target_of
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.guarded_run import Ended, GuardedRun, Orders
from breenix_gdbagent.debugger.script import Step, parse_script
from breenix_gdbagent.errors import InputError, OutputError, SaveIncomplete
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.patterns import compiled
from breenix_gdbagent.report.document import RunRecord
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.targets import Machine
from breenix_gdbagent.targets.facts import machine_facts

if TYPE_CHECKING:
    from breenix_gdbagent.commands.kept import Kept


def run(name: str, argv: list[str]) -> int:
    """``ci``, see the parser."""
    options = build(name).parse_args(argv)
    if options.record_on_failure is None:
        return run_with(options, None)
    from breenix_gdbagent.commands.kept import Kept
    from breenix_gdbagent.recording.recorder import Recorder

    directory = options.record_on_failure
    return run_with(options, lambda: Kept(Recorder(directory), if_failed=True))


def run_with(options: argparse.Namespace, keeps: Callable[[], Kept] | None) -> int:
    """A whole run as the options say; what `keeps` gives records it."""
    target = target_of(options, default_lab=False, must_run=True)
    check_options(options)
    expected = [parse_expectation(text) for text in options.expect]
    known = read_baseline(options.baseline)
    orders = Orders(
        until=options.until,
        timeout=options.timeout,
        fatal_only=options.faults == "fatal",
        audit_every=options.audit_every,
        strict=options.strict,
        script=read_script(options.script),
        check_interrupts=options.check_interrupts,
    )
    started = time.monotonic()
    with ExitStack() as closing:
        kept = None if keeps is None else keeps()
        if kept is not None:
            closing.callback(kept.close)
        machine = open_machine(target, None if kept is None else kept.recorder)
        vm = closing.enter_context(machine.vm)
        debugger = Debugger(vm, machine.image, _say)
        guarded = GuardedRun(debugger, lingering(orders, options, machine), time.monotonic)
        with Progress(vm):
            guarded.start()
            guarded.look_at(options.checkpoint, options.invariant)
            ended = guarded.go()
        for point in debugger.table:
            _say(f"{point.describe()}: {point.count}")
        return conclude(options, target, machine, ended, expected, known, started, keeps=kept)


def lingering(orders: Orders, options: argparse.Namespace, machine: Machine) -> Orders:
    """The orders with how long the guest is watched after its marker: as the user says, else as
    the machine has it after its own word of success."""
    asked = options.linger is not None
    return replace(
        orders,
        linger=options.linger if asked else machine.linger,
        always_linger=asked,
        memory=options.memory,
    )


def _say(line: str) -> None:
    """What points say: on stderr, as stdout is the report's."""
    aside(line)


def read_script(path: Path | None) -> tuple[Step, ...]:
    """The steps of a script file. Raises `InputError`."""
    if path is None:
        return ()
    try:
        return parse_script(path.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text file") from error


def conclude(
    options: argparse.Namespace,
    target: Target,
    machine: Machine,
    ended: Ended,
    expected: list[Expectation],
    known: tuple[str, ...],
    started: float,
    clean: str = "passed",
    keeps: Kept | None = None,
) -> int:
    """Report, verdict, snapshot and faces of a run that ended; the exit code. `clean` is the
    outcome where nothing was found: what was tested has passed, else it was only looked at.
    `keeps` has recorded it."""
    named = description(target)
    report = run_report.finish(
        ended.kernel,
        named,
        ended.record,
        ended.facts,
        ended.history,
        ended.examined,
        provenance(machine, time.monotonic() - started, ended.took),
    )
    if options.write_baseline is not None:
        write_baseline(options.write_baseline, report)
        known = tuple(f.fingerprint for f in report.findings)
    judged = judge(report, expected, known)
    outcome, code = run_report.outcome_of(
        judged.counted, options.fail_on, clean, bool(judged.missing)
    )
    report = run_report.with_outcome(report, outcome, code)
    if keeps is not None:
        report = keeps.ended(machine, ended, named, report)
        judged = replace(judged, report=replace(judged.report, recording=report.recording))
    record = replace(ended.record, outcome=outcome, exit=code)
    kept = run_report.with_outcome(replace(report, provenance={}), outcome, code)
    report = run_report.with_outcome(judged.report, outcome, code, judged.missing, judged.gone)
    failed = _saved(options, ended, record, named, machine, kept)
    write_formats(report, options, code, ended.kernel)
    for text in judged.missing:
        aside(f"expected and not seen: {text}")
    for text in judged.gone:
        aside(f"in the baseline and gone: {text}")
    gone = ended.facts.ended == "exit"  # with QEMU went the RAM: no fault of the run's
    if isinstance(failed, SaveIncomplete) and (code or gone):
        aside("\n  ".join(str(failed).splitlines()))
    elif failed is not None:
        raise failed
    return code


def _saved(
    options: argparse.Namespace,
    ended: Ended,
    record: RunRecord,
    named: Mapping[str, Json],
    machine: Machine,
    report: Report,
) -> OutputError | None:
    """Write the snapshot where one is asked for. What could not be written is told after the
    report: at night nobody runs it twice."""
    if options.output is None:
        return None
    try:
        run_report.save(
            options.output,
            ended.kernel,
            options.memory,
            named,
            record,
            ended.facts,
            ended.history,
            machine_facts(machine),
            report,
        )
    except OutputError as error:
        return error
    return None


def check_options(options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything starts. Raises `InputError`."""
    for name in ("until", "audit_every"):
        pattern = getattr(options, name, None)
        if pattern is not None:
            compiled(pattern, f"--{name.replace('_', '-')}")
    if options.check_interrupts and options.deterministic:
        raise InputError(
            "--check-interrupts with --deterministic would not get on",
            "QEMU's instruction counter jumps to the guest's next timer at each stop",
            "leave --deterministic out, or use record: a recording has its own clock",
        )
    check_formats(options)
    for path in (options.output, options.write_baseline):
        writable(path)


def build(name: str) -> Parser:
    """The options of `ci`."""
    parser = Parser("breenix-gdbagent ci")
    add_ci_options(parser)
    add_output_options(parser)
    parser.add_argument(
        "--record-on-failure", type=Path, metavar="DIR",
        help="record from the start; keep it only if the run failed",
    )  # fmt: skip
    return parser


def add_ci_options(parser: argparse.ArgumentParser) -> None:
    """All of `ci` but where its snapshot goes: `record` does the same, recorded."""
    add_target_options(parser, saved=False)
    add_run_end_options(parser)
    add_expectation_options(parser)
    add_format_options(parser)
    parser.add_argument("--audit-every", metavar="REGEX", help="audit at each matching line too")
    parser.add_argument(
        "--faults", choices=("all", "fatal"), default="all",
        help="fatal: look only at faults that end the machine (all)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", action="append", default=[], metavar="'LOCATION [EXPR, ...] [if COND]'",
        help="print values there and go on",
    )  # fmt: skip
    parser.add_argument(
        "--invariant", action="append", default=[], metavar="'CHECK at LOCATION'",
        help="a check run there; the first violation ends the run",
    )  # fmt: skip
    parser.add_argument("--script", type=Path, metavar="FILE", help="send and expect on serial")
    parser.add_argument("--strict", action="store_true", help="survived faults of ring 3 count")


def add_run_end_options(parser: argparse.ArgumentParser) -> None:
    """--until, --timeout, --linger: how a run ends."""
    parser.add_argument("--until", metavar="REGEX", help="run until serial text matches")
    parser.add_argument("--timeout", type=seconds, default=60.0, metavar="S", help="seconds (60)")
    parser.add_argument(
        "--linger", type=no_or_seconds, metavar="S",
        help="watch on after the marker (0: not; by itself only after the machine's own success)",
    )  # fmt: skip
    parser.add_argument(
        "--check-interrupts", action="store_true",
        help="compare the registers that threads get back with those they were interrupted with",
    )  # fmt: skip


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """-o, --memory: the snapshot of `ci` and `snapshot`."""
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="snapshot of the stop")
    parser.add_argument(
        "--memory", choices=("tables", "kernel", "all"), default="kernel",
        help="how much memory the snapshot holds (kernel)",
    )  # fmt: skip
