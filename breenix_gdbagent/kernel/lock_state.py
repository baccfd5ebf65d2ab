"""What `locks` tells of one lock."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.addresses import VirtAddr


@dataclass(frozen=True, slots=True)
class LockUser:
    """Where a CPU waits for a lock or holds it: the function that does."""

    cpu: int
    function: str


@dataclass(frozen=True, slots=True)
class LockState:
    """One lock by its static's path. `waiting` are the CPUs that spin on it, `holder` the one whose
    backtrace shows the guard; None: not known."""

    name: str
    address: VirtAddr
    taken: bool
    waiting: tuple[LockUser, ...]
    holder: LockUser | None
