"""Whole spaces in words and in JSON: `pt map`, `pt who`, `pt diff`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.mapped_space import Gap, MappedSpace, Range
from breenix_gdbagent.x86.paging import LEVEL

LEAST_ALIKE = 4
UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True, slots=True)
class Change:
    """[start, end) of an address space, and what each of two sides permits there (None: nothing
    is mapped)."""

    start: int
    end: int
    before: Range | None
    after: Range | None


def size_text(size: int) -> str:
    """``64 KiB``, ``1.04 MiB``."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"


def rights(one: Range | None) -> str:
    """``rw-u``: read, write, execute, user or supervisor; ``----`` where nothing is mapped."""
    if one is None:
        return "----"
    return f"r{'w' if one.w else '-'}{'-' if one.nx else 'x'}{'u' if one.u else 's'}"


def range_json(one: Range) -> dict[str, Json]:
    return {
        "start": hex64(one.start),
        "end": hex64(one.end),
        "size": one.end - one.start,
        "effective": {"w": one.w, "u": one.u, "nx": one.nx},
    }


def gap_json(gap: Gap) -> dict[str, Json]:
    return {
        "start": hex64(gap.start),
        "end": hex64(gap.end),
        "reason": gap.reason,
        "level": gap.level,
    }


def map_json(space: MappedSpace, ranges: Sequence[Range]) -> dict[str, Json]:
    """`pt map --json`: the ranges shown, and where nothing could be told."""
    return {
        "root": hex64(space.root),
        "ranges": [range_json(r) for r in ranges],
        "gaps": [gap_json(g) for g in space.gaps],
    }


def map_text(kernel: Kernel, space: MappedSpace, ranges: Sequence[Range]) -> str:
    """One line a range: from, to, size, rights (user or supervisor last), what begins there. Of top
    slots that map alike, one after another (Breenix has 253), the first is shown."""
    known = kernel.space_of(space.root)
    lines = [f"root {hex64(space.root)}" + (f"  {known.label}" if known is not None else "")]
    for slots in _alike(ranges, LEVEL[kernel.levels].shift):
        for one in slots[0]:
            name = kernel.symbol(one.start)
            size = size_text(one.end - one.start)
            lines.append(
                f"{one.start:#018x}-{one.end:#018x} {size:>9} {rights(one)}"
                + (f"  {name}" if name else "")
            )
        if len(slots) > 1:
            others = counted(len(slots) - 1, "more slot")
            lines.append(f"  and the same in {others}, up to {slots[-1][-1].end:#018x}")
    lines += [_unknown(gap) for gap in space.gaps]
    if not ranges and not space.gaps:
        lines.append("nothing is mapped that the filters let through")
    return "\n".join(lines)


def _alike(ranges: Sequence[Range], shift: int) -> Iterator[list[list[Range]]]:
    """The ranges by top slot; slots that map alike one after another together, if many."""
    slots = [list(found) for _, found in groupby(ranges, lambda r: r.start >> shift)]
    mask = (1 << shift) - 1

    def inside(slot: list[Range]) -> tuple[object, ...]:
        return tuple((r.start & mask, r.end - r.start, *r[2:]) for r in slot)

    for _, run in groupby(slots, inside):
        found = list(run)
        if len(found) < LEAST_ALIKE:
            yield from ([slot] for slot in found)
        else:
            yield found


def _unknown(gap: Gap) -> str:
    return f"{gap.start:#018x}-{gap.end:#018x}   not known: {gap.reason} at level {gap.level}"


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
            and (rights(last.before), rights(last.after)) == (rights(one.before), rights(one.after))
        ):
            out[-1] = Change(last.start, one.end, last.before, last.after)
        else:
            out.append(one)
    return out


def changes_json(found: Sequence[Change], gaps: Sequence[Gap] = ()) -> list[Json]:
    """Each change, and with `reason` what is not known of one of the two sides."""
    told: list[Json] = [
        {
            "start": hex64(c.start),
            "end": hex64(c.end),
            "size": c.end - c.start,
            "before": None if c.before is None else range_json(c.before)["effective"],
            "after": None if c.after is None else range_json(c.after)["effective"],
            "reason": None,
        }
        for c in found
    ]
    unknown: list[Json] = [
        {
            "start": hex64(gap.start),
            "end": hex64(gap.end),
            "size": gap.end - gap.start,
            "before": None,
            "after": None,
            "reason": gap.reason,
        }
        for gap in gaps
    ]
    return told + unknown


def changes_text(found: Sequence[Change], gaps: Sequence[Gap] = ()) -> str:
    """One line a change: ``+`` added, ``-`` removed, ``~`` other rights; ``?`` where one of the
    two is not known."""
    lines = []
    for c in found:
        sign = "+" if c.before is None else "-" if c.after is None else "~"
        lines.append(
            f"{sign} {c.start:#018x}-{c.end:#018x} {size_text(c.end - c.start):>9} "
            f"{rights(c.before)} -> {rights(c.after)}"
        )
    lines += [f"? {_unknown(gap)}" for gap in gaps]
    return "\n".join(lines) or "the two spaces map the same addresses with the same rights"
