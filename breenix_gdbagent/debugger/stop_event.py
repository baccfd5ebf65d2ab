"""Why the guest stopped after a command let it run: the first thing the user is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from breenix_gdbagent.debugger.points import Point
from breenix_gdbagent.stop import StopReason

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StopEvent:
    """`points` are the user's that stopped it, `notes` sentences on what changed or could not be
    told; `returned` is RAX after a `finish`."""

    reason: StopReason
    points: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()
    returned: int | None = None
