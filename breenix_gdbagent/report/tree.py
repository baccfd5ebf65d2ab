"""Page tables as data for a page that opens them lazily: each table once, entries as runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import frame_of, is_leaf, present, span

MOST_RUNS = 12_000
"""Runs kept in all, about 400 KiB of text."""


def build(kernel: Kernel, roots: Sequence[str]) -> dict[str, Json]:
    """Tables below `roots` (``0x...``), breadth first until `MOST_RUNS`.

    ``tables``: ``FRAME.LEVEL`` (hexadecimal without 0x) -> runs ``[first index, count, entry,
    step]``. A run is entries that are equal (step 0) or map one page after the other (step 1).
    ``unreadable`` names the tables that we do not have; one that is in neither was too many.
    """
    tables: dict[str, Json] = {}
    unreadable: list[Json] = []
    waiting = deque((int(frame_of(int(root, 16))), kernel.levels) for root in roots)
    seen = set(waiting)
    kept = 0
    while waiting and kept < MOST_RUNS:
        frame, level = waiting.popleft()
        try:
            entries = kernel.tables.table(frame).tolist()
        except ReadError:
            unreadable.append(_key(frame, level))
            continue
        runs = _runs(entries, level)
        kept += len(runs)
        tables[_key(frame, level)] = [[a, n, f"{raw:x}", step] for a, n, raw, step in runs]
        for _, _, raw, _ in runs:
            if present(raw) and not is_leaf(level, raw):
                below = (int(frame_of(raw)), level - 1)
                if below not in seen:
                    seen.add(below)
                    waiting.append(below)
    return {
        "levels": kernel.levels,
        "nxe": kernel.nxe,
        "roots": list(roots),
        "tables": tables,
        "unreadable": unreadable,
    }


def _key(frame: int, level: int) -> str:
    return f"{frame:x}.{level}"


def _runs(entries: Sequence[int], level: int) -> list[tuple[int, int, int, int]]:
    """(first, count, entry, step) of what is not zero."""
    runs: list[tuple[int, int, int, int]] = []
    size = span(level)
    for index, raw in enumerate(entries):
        if not raw:
            continue
        if runs:
            first, count, start, step = runs[-1]
            leaf = present(start) and is_leaf(level, start)
            if first + count == index:
                if raw == start and (count == 1 or step == 0):
                    runs[-1] = (first, count + 1, start, 0)
                    continue
                if leaf and raw == start + count * size and (count == 1 or step == 1):
                    runs[-1] = (first, count + 1, start, 1)
                    continue
        runs.append((index, 1, raw, 0))
    return runs
