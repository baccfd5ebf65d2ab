"""One stop of whatever target was named, as a `Stop` or a `Kernel`, for commands that only look."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from breenix_gdbagent.commands import seconds
from breenix_gdbagent.commands.output import aside
from breenix_gdbagent.commands.target import Target, opened_snapshot
from breenix_gdbagent.stop import Stop

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.view import Kernel
    from breenix_gdbagent.timeline.player import Player

DEFAULT_SECONDS = 60.0
RACY = (
    "racy: somebody else let the guest run while it was read, so this is of more than one moment\n"
    "  try again, or end the other monitor session"
)
NOT_KNOWN = (
    "whether somebody else let the guest run while it was read is not known: this QEMU's gdbstub "
    "does not tell, and the machine has no ACPI timer\n  give --qmp PATH, which tells"
)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How far a target that we boot runs before it is looked at."""
    parser.add_argument("--until", metavar="REGEX", help="run until serial text matches")
    parser.add_argument(
        "--timeout", type=seconds, default=DEFAULT_SECONDS, metavar="S",
        help=f"a target that we boot runs so many seconds at most ({DEFAULT_SECONDS:.0f})",
    )  # fmt: skip


@contextmanager
def stop_of(target: Target, *, hidden: bool = True) -> Iterator[Stop]:
    """The stop to examine. A machine that we boot runs to its own marker or first fault; one that
    we attach to is stopped as it stands, and goes on afterwards as it was.
    `hidden`: see `Guest.stop`."""
    if target.kind == "replay":
        with replayed(target) as (_, stop):
            yield stop
        return
    if not target.runs:
        yield opened_snapshot(target)[0]
        return
    if target.boots:
        with _booted(target) as kernel:
            yield kernel.stop
        return
    from breenix_gdbagent.commands.machines import open_machine

    machine = open_machine(target)
    with machine.vm as vm:
        stop = vm.stop(vm.found_at(), hidden=hidden)
        if machine.image is not None:
            from breenix_gdbagent.kernel.image import with_image

            stop = with_image(stop, machine.image)[0]
        yield stop
        disturbed = vm.disturbed()
        if disturbed is not False:
            aside(f"breenix-gdbagent: {RACY if disturbed else NOT_KNOWN}")


@contextmanager
def kernel_of(target: Target) -> Iterator[Kernel]:
    """`stop_of`, as the kernel found in it; why a bare core is stopped is seen in its CPUs."""
    if target.boots:
        with _booted(target) as kernel:
            yield kernel
        return
    with stop_of(target) as stop:
        from breenix_gdbagent.kernel.reason import with_reason
        from breenix_gdbagent.kernel.view import Kernel

        yield Kernel(with_reason(stop))


@contextmanager
def replayed(target: Target) -> Iterator[tuple[Player, Stop]]:
    """A recording at the moment that ``--at`` names, by itself its end."""
    from breenix_gdbagent.timeline.player import Player

    options = target.options
    with Player(options.replay, options.kernel) as player:
        options.was = player.beside.get("target")
        yield player, player.at(player.moment(options.at or "end"))


@contextmanager
def _booted(target: Target) -> Iterator[Kernel]:
    """A machine that we boot, at the end of its run."""
    from breenix_gdbagent.commands.machines import open_machine
    from breenix_gdbagent.debugger.guarded_run import Orders, run_to_stop

    machine = open_machine(target)
    orders = Orders(until=target.options.until, timeout=target.options.timeout)
    with machine.vm as vm:
        yield run_to_stop(vm, machine.image, orders)
