"""One walk of page tables as the report document and `pt walk --json` have it."""

from __future__ import annotations

from dataclasses import dataclass, field

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.report.fields import OMITTED


@dataclass(frozen=True, slots=True)
class ShownLevel:
    """One entry of a walk."""

    level: int
    entry_pa: str
    entry: str
    flags: tuple[str, ...]
    index: int | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True, slots=True)
class ShownRights:
    """What a walk permits over all its levels; at each level of privilege where they have rights
    of their own."""

    w: bool
    u: bool
    nx: bool
    el0: str = field(default="", metadata=OMITTED)
    el1: str = field(default="", metadata=OMITTED)


@dataclass(frozen=True, slots=True)
class ShownWalk:
    """One answer of `pt walk --json` (contract, "Page tables"). `format` is that of tables which
    are not x86-64's."""

    va: str
    root: str
    pa: str | None
    size: int | None
    levels: tuple[ShownLevel, ...]
    effective: ShownRights | None
    stopped_at: int | None
    reason: str | None
    format: str = field(default="", metadata=OMITTED)


def shown_walk(walk: Walk) -> ShownWalk:
    """A walk as reports have it."""
    may = walk.effective
    return ShownWalk(
        hex64(walk.va),
        hex64(walk.root),
        None if walk.pa is None else hex64(walk.pa),
        walk.size,
        tuple(
            ShownLevel(e.level, hex64(e.entry_pa), hex64(e.raw), tuple(e.flags), e.index)
            for e in walk.entries
        ),
        None if may is None else ShownRights(*may),
        walk.stopped_at,
        walk.reason,
        walk.format,
    )
