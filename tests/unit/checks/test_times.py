"""How long each check takes is measured by the clock that is given, and not without one."""

from __future__ import annotations

from itertools import count

from breenix_gdbagent.checks.examine import CHECKS, CheckTime, examine, times_of
from tests.writers.machine import TEXT, Machine


def test_each_check_is_timed() -> None:
    m = Machine()
    m.code(TEXT, "8a00")
    stop = m.fault(14, TEXT, ring=0, error=0, cr2=0x5000, rax=0x5000)
    ticks = count(100.0, 2.0)
    seen = examine(stop, clock=lambda: next(ticks))
    assert times_of(seen, 7) == tuple(CheckTime(7, name, 2.0) for name, _ in CHECKS)
    assert times_of(examine(stop), 7) == ()
