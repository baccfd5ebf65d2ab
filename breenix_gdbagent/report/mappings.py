"""Whole spaces in words and in JSON: `pt map`, `pt diff`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Protocol

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.arch.spaces import Gap, MappedSpace, Range
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.views.changes import Change
from breenix_gdbagent.views.space_listing import SpaceListing
from breenix_gdbagent.x86.paging import LEVEL

LEAST_ALIKE = 4
UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def size_text(size: int) -> str:
    """``64 KiB``, ``1.04 MiB``."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"


class Permission(Protocol):
    """What permits or forbids: a `Range`, an `Effective`."""

    @property
    def w(self) -> bool: ...
    @property
    def u(self) -> bool: ...
    @property
    def nx(self) -> bool: ...


def rights(one: Permission | None) -> str:
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


def map_text(listing: SpaceListing) -> str:
    """One line a range: from, to, size, rights (user or supervisor last), what begins there. Of top
    slots that map alike, one after another (Breenix has 253), the first is shown."""
    label = f"  {listing.label}" if listing.label is not None else ""
    lines = [f"root {hex64(listing.root)}{label}"]
    named = dict(zip(listing.ranges, listing.symbols, strict=True))
    for slots in _alike(listing.ranges, LEVEL[listing.levels].shift):
        for one in slots[0]:
            name = named[one]
            size = size_text(one.end - one.start)
            lines.append(
                f"{one.start:#018x}-{one.end:#018x} {size:>9} {rights(one)}"
                + (f"  {name}" if name else "")
            )
        if len(slots) > 1:
            others = counted(len(slots) - 1, "more slot")
            lines.append(f"  and the same in {others}, up to {slots[-1][-1].end:#018x}")
    lines += [_unknown(gap) for gap in listing.gaps]
    if not listing.ranges and not listing.gaps:
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
