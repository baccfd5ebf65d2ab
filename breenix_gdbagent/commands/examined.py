"""Open a target just far enough to look at it: one stop, as a `Kernel`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from breenix_gdbagent.commands.target import Target, opened_snapshot
from breenix_gdbagent.kernel.view import Kernel


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How far a target that we boot runs before it is looked at."""
    parser.add_argument("--until", metavar="REGEX", help="run until serial text matches")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S")


@contextmanager
def kernel_of(target: Target) -> Iterator[Kernel]:
    """The stop to examine. A machine that we boot runs to its own marker or first fault; one that
    we attach to is stopped as it stands, and goes on afterwards as it was."""
    if not target.runs:
        yield Kernel(opened_snapshot(target)[0])
        return
    from breenix_gdbagent.commands.machines import open_machine
    from breenix_gdbagent.watch import Orders, stop_to_examine

    options = target.options
    machine = open_machine(target)
    with machine.vm as vm:
        orders = Orders(
            until=getattr(options, "until", None), timeout=getattr(options, "timeout", 60.0)
        )
        yield Kernel(stop_to_examine(vm, machine.image, boots=target.boots, orders=orders))
