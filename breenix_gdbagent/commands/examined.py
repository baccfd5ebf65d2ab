"""Open a target just far enough to look at it: one stop, as a `Kernel`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from breenix_gdbagent.commands.target import Target, opened_vm, stop_of_snapshot
from breenix_gdbagent.kernel.view import Kernel


@contextmanager
def kernel_of(target: Target) -> Iterator[Kernel]:
    """The stop to examine. A machine that we boot runs to its own marker or first fault; one that
    we attach to is stopped as it stands, and goes on afterwards as it was."""
    if not target.runs:
        yield Kernel(stop_of_snapshot(target))
        return
    from breenix_gdbagent.watch import stop_to_examine

    with opened_vm(target) as vm:
        yield Kernel(stop_to_examine(vm, boots=target.boots))
