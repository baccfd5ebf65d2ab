"""Page tables as runs of alike entries, for a page that opens them level by level."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import frame_of, is_leaf, present, span

MOST_RUNS = 12_000
"""Runs kept in all, about 400 KiB of text."""


class TableAt(NamedTuple):
    """A table's frame, and the level at which it is used."""

    frame: int
    level: int


class Run(NamedTuple):
    """`length` entries from index `first` on: all equal to `entry` (`step` 0), or each mapping the
    page behind the one before (`step` 1)."""

    first: int
    length: int
    entry: int
    step: int


@dataclass(frozen=True, slots=True)
class TableRuns:
    """Tables below some roots, breadth first. `unreadable` are those that we do not have; one that
    is in neither was beyond `MOST_RUNS`."""

    levels: int
    nxe: bool | None
    tables: dict[TableAt, tuple[Run, ...]]
    unreadable: tuple[TableAt, ...]


def table_runs(kernel: Kernel, roots: Iterable[int]) -> TableRuns:
    """The tables below `roots`."""
    tables: dict[TableAt, tuple[Run, ...]] = {}
    unreadable: list[TableAt] = []
    waiting = deque(TableAt(int(frame_of(root)), kernel.levels) for root in roots)
    seen = set(waiting)
    kept = 0
    while waiting and kept < MOST_RUNS:
        at = waiting.popleft()
        try:
            entries = kernel.tables.table(at.frame).tolist()
        except ReadError:
            unreadable.append(at)
            continue
        found = runs(entries, at.level)
        kept += len(found)
        tables[at] = tuple(found)
        for run in found:
            if present(run.entry) and not is_leaf(at.level, run.entry):
                below = TableAt(int(frame_of(run.entry)), at.level - 1)
                if below not in seen:
                    seen.add(below)
                    waiting.append(below)
    return TableRuns(kernel.levels, kernel.nxe, tables, tuple(unreadable))


def runs(entries: Sequence[int], level: int) -> list[Run]:
    """The entries of one table that are not zero."""
    found: list[Run] = []
    size = span(level)
    for index, raw in enumerate(entries):
        if not raw:
            continue
        if found:
            first, count, start, step = found[-1]
            leaf = present(start) and is_leaf(level, start)
            if first + count == index:
                if raw == start and (count == 1 or step == 0):
                    found[-1] = Run(first, count + 1, start, 0)
                    continue
                if leaf and raw == start + count * size and (count == 1 or step == 1):
                    found[-1] = Run(first, count + 1, start, 1)
                    continue
        found.append(Run(index, 1, raw, 0))
    return found
