"""The pages of a range of addresses, one descent for all who want them in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr, sign_extended
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.x86.paging import ADDRESS, LEVEL, NX, P, Tables, U, W, is_leaf, leaf_base

_RIGHTS = W | U | NX  # NX inverted, so that all three go by AND


class Page(NamedTuple):
    """One page as a root maps it: the entry of `level` at `entry_pa`, with the rights of all levels
    on the way."""

    va: VirtAddr
    level: int
    raw: int
    entry_pa: PhysAddr
    w: bool
    u: bool
    nx: bool

    @property
    def frame(self) -> PhysAddr:
        """The physical address of its first byte."""
        return leaf_base(self.level, self.raw)


def pages(
    tables: Tables, root: int, levels: int, first: int, last: int, *, strict: bool = False
) -> Iterator[Page]:
    """The pages that `root` maps from the address `first` to `last`, both inclusive, in order.

    Pages of all sizes; one that begins before `first` counts. A table that cannot be read, or that
    is in no RAM, maps nothing; `strict`: the former raises `Unreadable`. Read as they are asked
    for, so who stops early has read no more.
    """
    mask = (1 << LEVEL[levels].shift + 9) - 1
    low, high = first & mask, last & mask
    ram = tables.memory.ram
    waiting = [(root & ADDRESS, levels, 0, _RIGHTS)]
    while waiting:
        frame, level, base, above = waiting.pop()
        if level < 0:  # a large page that has waited for what lies before it
            yield _page(levels, base, -level, tables, frame, above)
            continue
        try:
            table = tables.table(frame)
        except Unreadable:
            if strict:
                raise
            continue
        shift = LEVEL[level].shift
        below = []
        for index in range(max(low - base, 0) >> shift, min(high - base >> shift, 511) + 1):
            raw = table[index]
            if not raw & P:
                continue
            va, entry_pa = base + (index << shift), frame + index * 8
            rights = above & (raw ^ NX)
            if level == 1:
                yield _page(levels, va, 1, tables, entry_pa, rights)
            elif is_leaf(level, raw):
                below.append((entry_pa, -level, va, rights))
            elif ram is None or ram.holds(raw & ADDRESS, PAGE):
                below.append((raw & ADDRESS, level - 1, va, rights))
        waiting += reversed(below)


def _page(levels: int, va: int, level: int, tables: Tables, entry_pa: int, rights: int) -> Page:
    raw = tables.table(entry_pa)[(entry_pa & PAGE - 1) // 8]
    return Page(
        sign_extended(va, levels),
        level,
        raw,
        PhysAddr(entry_pa),
        bool(rights & W),
        bool(rights & U),
        not rights & NX,
    )
