"""What the CPU answers an access with, told from the tables alone: nothing, or an abort with its
ESR_EL1.

Source: Arm ARM, D8.4 (permissions), D8.5 (access flag, dirty state), D8.15 (priority: translation
or address size before the access flag before permission).
"""

from __future__ import annotations

from typing import NamedTuple

from breenix_gdbagent.aarch64.paging import AF, VALID, Shape, rights
from breenix_gdbagent.aarch64.syndrome import (
    ACCESS_FLAG,
    CM,
    EC_DATA_LOWER,
    EC_DATA_SAME,
    EC_FETCH_LOWER,
    EC_FETCH_SAME,
    IL,
    PERMISSION,
    SIZE,
    TRANSLATION,
    WNR,
    Fault,
    status_of,
)
from breenix_gdbagent.aarch64.translation import Translation
from breenix_gdbagent.arch.walks import NON_CANONICAL, RESERVED_BITS, UNREADABLE, Walk


class Access(NamedTuple):
    """One access: `kind` is ``read``, ``write`` or ``fetch``; `el` the level whose rights count (0
    also for LDTR and STTR at EL1, whose abort is EL1's: `taken_from`). `maintenance`: by a cache
    maintenance or address translation instruction, which counts as a write (CM)."""

    kind: str
    el: int
    taken_from: int | None = None
    maintenance: bool = False


class Abort(NamedTuple):
    """The abort that an access is answered with."""

    fault: Fault
    access: Access

    @property
    def esr(self) -> int:
        """As ESR_EL1 has it, ISV and what hangs on it clear, as for every abort of stage 1."""
        lower = (self.access.el if self.access.taken_from is None else self.access.taken_from) == 0
        assert self.fault.level is not None
        status = status_of(self.fault.kind, self.fault.level)
        if self.access.kind == "fetch":
            return (EC_FETCH_LOWER if lower else EC_FETCH_SAME) << 26 | IL | status
        writes = WNR if self.access.kind == "write" or self.access.maintenance else 0
        cached = CM if self.access.maintenance else 0
        return (EC_DATA_LOWER if lower else EC_DATA_SAME) << 26 | IL | cached | writes | status


def verdict(walk: Walk, access: Access, mode: Translation) -> Abort | None:
    """The abort, None where the access is let through. Raises `LookupError` where a table could
    not be read, so that nothing is known."""
    fault = _fault(walk, access, mode)
    return None if fault is None else Abort(fault, access)


def _fault(walk: Walk, access: Access, mode: Translation) -> Fault | None:
    if walk.reason == UNREADABLE:
        raise LookupError(f"the table of level {walk.stopped_at} could not be read")
    if walk.reason == NON_CANONICAL or (walk.reason and not walk.entries):
        return Fault(TRANSLATION, 0)
    level = walk.entries[-1].level
    if walk.reason == RESERVED_BITS:
        return Fault(SIZE if _too_wide(walk, mode) else TRANSLATION, level)
    if walk.reason is not None:
        return Fault(TRANSLATION, level)
    if not walk.entries[-1].raw & AF and not mode.hardware_access:
        return Fault(ACCESS_FLAG, level)
    return None if _permitted(walk, access, mode) else Fault(PERMISSION, level)


def _too_wide(walk: Walk, mode: Translation) -> bool:
    half = mode.half_of(walk.va)
    raw = walk.entries[-1].raw
    return bool(raw & VALID and Shape.of(half).address(raw) >> half.output_bits)


def _permitted(walk: Walk, access: Access, mode: Translation) -> bool:
    may = rights(walk, mode)
    if access.kind == "fetch":
        return may.el0_execute if access.el == 0 else may.el1_execute
    if access.el == 0:
        return may.el0_write if access.kind == "write" else may.el0_read
    if mode.pan and may.el0_read and access.taken_from is None:
        return False
    return may.el1_write or access.kind != "write"
