"""``snapshot``: one shot. Boot or attach, stop, examine, write one file."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.ci import (
    add_output_options,
    add_run_end_options,
    check_options,
    conclude,
    lingering,
)
from breenix_gdbagent.commands.formats import add_format_options
from breenix_gdbagent.commands.machines import open_machine
from breenix_gdbagent.commands.progress import Progress
from breenix_gdbagent.commands.target import Target, add_target_options, target_of
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.guarded_run import Ended, GuardedRun, Orders
from breenix_gdbagent.errors import InputError

DEFAULT_NAME = "breenix.snapshot"


def run(name: str, argv: list[str]) -> int:
    """``snapshot``, see the parser."""
    options = build(name).parse_args(argv)
    if options.reproduce is not None:
        from breenix_gdbagent.commands.reproduce import reproduce

        return reproduce(options)
    target = target_of(options, default_lab=False, must_run=True)
    if sum((options.now, options.until is not None, options.at is not None)) > 1:
        raise InputError("--now, --until and --at are three different moments", fix="choose one")
    if options.now and target.boots:
        raise InputError(
            "--now on a guest that we boot would show its first instruction",
            fix="use --until REGEX or --at LOCATION",
        )
    options.output = options.output or Path(DEFAULT_NAME)
    options.write_baseline = None
    check_options(options)
    started = time.monotonic()
    machine = open_machine(target)
    orders = Orders(
        until=options.until,
        timeout=options.timeout,
        first_fault=True,
        check_interrupts=options.check_interrupts,
    )
    with machine.vm as vm:
        watching = lingering(orders, options, machine)
        guarded = GuardedRun(Debugger(vm, machine.image), watching, time.monotonic)
        with Progress(vm):
            ended = _take(guarded, options, target)
        code = conclude(options, target, machine, ended, [], (), started, "examined")
    return code


def _take(guarded: GuardedRun, options: argparse.Namespace, target: Target) -> Ended:
    """Run to the moment asked for. Attached and not told otherwise, the moment is now."""
    if not target.boots and options.until is None and options.at is None:
        return guarded.now()
    guarded.start()
    if options.at is not None:
        guarded.stop_at(options.at)
        guarded.orders = replace(guarded.orders, until=None, linger=0.0)
    return guarded.go()


def build(name: str) -> Parser:
    """The options of `snapshot`."""
    parser = Parser("breenix-gdbagent snapshot")
    add_target_options(parser, saved=False)
    add_run_end_options(parser)
    add_output_options(parser)
    add_format_options(parser)
    parser.add_argument("--now", action="store_true", help="as it stands (when attached: default)")
    parser.add_argument(
        "--reproduce", type=Path, metavar="FILE", help="boot the same again: the same fault?"
    )
    parser.add_argument("--at", metavar="LOCATION", help="at an address or symbol+offset")
    return parser
