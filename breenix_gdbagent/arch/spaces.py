"""Whole address spaces as ranges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from breenix_gdbagent.addresses import PhysAddr, VirtAddr

Stretch = tuple[VirtAddr, PhysAddr, int]
"""(virtual, physical, bytes): both run on for so long."""


class Range(NamedTuple):
    """[start, end) is mapped throughout with one effective permission (see `walks.Effective`).

    A named tuple, not a dataclass: they are made by the thousand.
    """

    start: VirtAddr
    end: VirtAddr
    w: bool
    u: bool
    nx: bool
    el0: str = ""
    el1: str = ""


class Gap(NamedTuple):
    """[start, end) could not be looked at or is malformed: nothing is known to be mapped there.

    `reason` is ``unreadable`` (the table, which is of `level`), ``reserved-bits`` (the entry at
    `level`) or ``too-many-ranges``. What is plainly not present is no gap.
    """

    start: VirtAddr
    end: VirtAddr
    reason: str
    level: int


class MappedSpace(NamedTuple):
    """All that a root maps, in order of address, and where that could not be told."""

    root: PhysAddr
    ranges: tuple[Range, ...]
    gaps: tuple[Gap, ...]

    def __repr__(self) -> str:
        return f"<MappedSpace of {self.root:#x}: {len(self.ranges)} ranges>"

    def _repr_html_(self) -> str:
        """Its ranges as a table: from, to, rights."""
        rows = "".join(
            f"<tr><td><code>{r.start:#018x}</code></td><td><code>{r.end:#018x}</code></td>"
            f"<td>r{'w' if r.w else '-'}{'-' if r.nx else 'x'}{'u' if r.u else 's'}</td></tr>"
            for r in self.ranges
        )
        return f"<table>{rows}</table>"

    def find(self, va: int) -> Range | None:
        """The range that holds `va`, None where nothing is mapped or known."""
        low, high = 0, len(self.ranges)
        while low < high:
            middle = (low + high) // 2
            if self.ranges[middle].end <= va:
                low = middle + 1
            else:
                high = middle
        if low < len(self.ranges) and self.ranges[low].start <= va:
            return self.ranges[low]
        return None


class SpaceReader(Protocol):
    """Reads the spaces of one stop, and remembers what they have in common."""

    def space(self, root: int) -> MappedSpace:
        """All that a root maps."""

    def table_frames(self, roots: Iterable[int]) -> set[int]:
        """The frames of all tables that the roots use."""
