"""`pt roots` as a person reads it: the living first, the dead by the dozen folded."""

from __future__ import annotations

from dataclasses import replace

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.report.tables import MOST_DEAD, spaces_text

LIVING = Space(PhysAddr(0x9000), "process", True, 1, "init", "CR3 of CPU 0")


def text(dead: int) -> list[str]:
    spaces = [
        replace(LIVING, root=PhysAddr(0x1000 * n), live=False, pid=None, name=None)
        for n in range(1, dead + 1)
    ]
    return spaces_text((*spaces, LIVING), "").splitlines()


def test_the_living_come_first() -> None:
    lines = text(2)
    assert [line.split()[0] for line in lines[1:]] == ["0x9000", "0x1000", "0x2000"]


def test_the_dead_are_counted() -> None:
    lines = text(MOST_DEAD + 3)
    assert len(lines) == 1 + 1 + MOST_DEAD + 1
    assert lines[-1].startswith("and 3 more that are dead")
