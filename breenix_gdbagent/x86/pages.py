"""The mapped pages of a range of addresses, in order, by one descent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr, sign_extended
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.x86.paging import (
    ADDRESS,
    LEVEL,
    NX,
    PS,
    P,
    Tables,
    U,
    W,
    entry_index,
    is_leaf,
    leaf_base,
)

_ALL = W | U | NX  # NX inverted, so that all three go by AND


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

    Pages of all sizes; one that begins before `first` counts. An entry with reserved bits set maps
    nothing, as does a table that cannot be read, or that is in no RAM; `strict`: the former raises
    `Unreadable`. Read as they are asked for, so who stops early has read no more.
    """
    mask = (1 << LEVEL[levels].shift + 9) - 1
    low, high = first & mask, last & mask
    ram = tables.memory.ram
    waiting = [(root & ADDRESS, levels, 0, _ALL)]
    while waiting:
        frame, level, base, above = waiting.pop()
        if level < 0:  # a large page that has waited for what lies before it
            raw = tables.table(frame)[entry_index(frame)]
            yield Page(sign_extended(base, levels), -level, raw, PhysAddr(frame), *_rights(above))
            continue
        try:
            table = tables.table(frame)
        except Unreadable:
            if strict:
                raise
            continue
        shift, reserved = LEVEL[level].shift, LEVEL[level].reserved
        lift = sign_extended(base, levels) - base  # a table serves addresses of one half
        below = []
        for index in range(max(low - base, 0) >> shift, min(high - base >> shift, 511) + 1):
            raw = table[index]
            if not raw & P:
                continue
            va, entry_pa = base + (index << shift), frame + index * 8
            rights = above & (raw ^ NX)
            if level == 1:
                yield Page(VirtAddr(va + lift), 1, raw, PhysAddr(entry_pa), *_rights(rights))
            elif is_leaf(level, raw):
                if not raw & reserved:
                    below.append((entry_pa, -level, va, rights))
            elif not raw & PS and (ram is None or ram.holds(raw & ADDRESS, PAGE)):
                below.append((raw & ADDRESS, level - 1, va, rights))
        waiting += reversed(below)


def small_pages(there: Iterable[Page]) -> Iterator[tuple[Page, PhysAddr]]:
    """Those of 4 KiB, each with its frame."""
    return ((page, PhysAddr(page.raw & ADDRESS)) for page in there if page.level == 1)


def _rights(bits: int) -> tuple[bool, bool, bool]:
    return bool(bits & W), bool(bits & U), not bits & NX
