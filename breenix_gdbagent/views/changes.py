"""Where two address spaces differ in what they map, in order of address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from breenix_gdbagent.arch.spaces import Gap, MappedSpace, Range


@dataclass(frozen=True, slots=True)
class Change:
    """[start, end) of an address space, and what each of two sides permits there (None: nothing
    is mapped)."""

    start: int
    end: int
    before: Range | None
    after: Range | None


def changes(before: Sequence[Range], after: Sequence[Range]) -> Iterator[Change]:
    """Where two spaces permit different things, in order of address."""
    edges = sorted({e for r in (*before, *after) for e in (r.start, r.end)})
    left, right = _Cursor(before), _Cursor(after)
    for start, end in pairwise(edges):
        a, b = left.at(start), right.at(start)
        if (a is None) != (b is None) or (a and b and a[2:] != b[2:]):
            yield Change(start, end, a, b)


def space_changes(before: MappedSpace, after: MappedSpace) -> list[Change]:
    """`changes` of two whole spaces, neighbours of one kind as one; what is not known of either is
    left out, and is no change."""
    gaps = sorted((*before.gaps, *after.gaps), key=lambda gap: gap.start)
    known = [list(_outside(space.ranges, gaps)) for space in (before, after)]
    return merged_changes(changes(*known))


def _outside(ranges: Sequence[Range], gaps: Sequence[Gap]) -> Iterator[Range]:
    """The parts of the ranges that no gap covers; the gaps in order of address."""
    for one in ranges:
        start = one.start
        for gap in gaps:
            if gap.end <= start or gap.start >= one.end:
                continue
            if gap.start > start:
                yield one._replace(start=start, end=gap.start)
            start = gap.end
        if start < one.end:
            yield one._replace(start=start)


class _Cursor:
    """The range that holds an address, for addresses asked in order."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = ranges
        self._next = 0

    def at(self, va: int) -> Range | None:
        while self._next < len(self._ranges) and self._ranges[self._next].end <= va:
            self._next += 1
        if self._next < len(self._ranges) and self._ranges[self._next].start <= va:
            return self._ranges[self._next]
        return None


def merged_changes(found: Iterable[Change]) -> list[Change]:
    """Neighbours of the same kind as one."""
    out: list[Change] = []
    for one in found:
        last = out[-1] if out else None
        if (
            last is not None
            and last.end == one.start
            and (_rights(last.before), _rights(last.after))
            == (_rights(one.before), _rights(one.after))
        ):
            out[-1] = Change(last.start, one.end, last.before, last.after)
        else:
            out.append(one)
    return out


def _rights(one: Range | None) -> tuple[bool, bool, bool] | None:
    return None if one is None else (one.w, one.u, one.nx)
