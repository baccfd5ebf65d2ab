"""Kernel and IST stacks as the tables show them: extents, guards, owners, depth of use.

A top is exclusive: it is the first address of the next slot's guard page and is never walked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.x86.pages import pages, small_pages
from breenix_gdbagent.x86.paging import SHAPE, index_at


@dataclass(frozen=True, slots=True)
class Era:
    """One shape that a kernel's memory has had: a grid of stacks in slots of one size from `base`
    on, each above a guard of `guard` bytes. Sizes in bytes; the region ends at `stacks_end`."""

    name: str
    base: int
    stack_size: int
    stack_slots: int
    stacks_end: int
    guard: int = PAGE

    @property
    def slot_size(self) -> int:
        return self.stack_size + self.guard


@dataclass(frozen=True, slots=True)
class Leaf:
    """One 4 KiB page of a stack region as one space maps it: `frame` by its entry `raw`, with the
    permissions of all levels."""

    frame: PhysAddr
    raw: int
    entry_pa: PhysAddr
    w: bool
    u: bool
    nx: bool


@dataclass(frozen=True, slots=True)
class KernelStack:
    """[bottom, top) and the guard page below it, None where there is none by design.

    `name` is stable over boots: ``slot 3`` or ``IST1 (#DF)``.
    """

    name: str
    bottom: VirtAddr
    top: VirtAddr
    guard: VirtAddr | None
    ist: int | None = None

    @property
    def size(self) -> int:
        return self.top - self.bottom

    @property
    def subject(self) -> str:
        """Its name without what the IDT says of it: ``IST1``."""
        return self.name.partition(" (")[0]

    @property
    def pages(self) -> range:
        return range(self.bottom, self.top, PAGE)

    def holds(self, rsp: int) -> bool:
        """Whether `rsp` is inside; an empty stack's RSP is its exclusive top."""
        return self.bottom < rsp <= self.top


class StackRegion:
    """The 4 KiB leaves of one region of virtual addresses, in any space."""

    def __init__(self, tables: Tables, region: range, levels: int) -> None:
        self.tables = tables
        self.levels = levels
        self._region = region
        first, last = (index_at(va, levels) for va in (region.start, region.stop - bool(region)))
        self._slots = range(first, last + bool(region))
        self._known: dict[tuple[int, ...], Mapping[int, Leaf]] = {}

    def holds(self, va: int) -> bool:
        """Whether an address lies in the region."""
        return va in self._region

    def leaves(self, root: PhysAddr) -> Mapping[int, Leaf]:
        """Page address -> leaf, for all of the region that `root` maps with 4 KiB pages.

        Worked out once for all roots whose entries of the region say the same. Raises `Unreadable`
        when a table in the way cannot be read.
        """
        if not self._region:
            return {}
        top = self.tables.table(root)
        key = tuple(top[slot] & SHAPE for slot in self._slots)
        found = self._known.get(key)
        if found is None:
            region = self._region
            there = pages(
                self.tables, root, self.levels, region.start, region.stop - 1, strict=True
            )
            found = self._known[key] = {
                page.va: Leaf(frame, page.raw, page.entry_pa, page.w, page.u, page.nx)
                for page, frame in small_pages(there)
            }
        return found


def recognise_era(mapped: Iterable[int], eras: Sequence[Era]) -> Era | None:
    """The one of `eras` whose slot grid the mapped stack pages follow: stacks without holes, guards
    free. None when nothing is mapped there.
    """
    pages = set(mapped)
    best: tuple[int, Era] | None = None
    for era in eras:
        score = sum(_fits(pages, era, slot) for slot in used_slots(pages, era))
        if best is None or score > best[0]:
            best = (score, era)
    return best[1] if best is not None and best[0] > 0 else None


def _fits(pages: set[int], era: Era, slot: int) -> int:
    """How well a slot of one grid explains the pages in it: by its pages if it is whole, by fewer
    if it is cut off at one end (being mapped or unmapped), not at all if it has holes."""
    guard = era.base + slot * era.slot_size
    there = [va in pages for va in range(guard + era.guard, guard + era.slot_size, PAGE)]
    count = sum(there)
    first = there.index(True)
    holes = len(there) - count - first - there[::-1].index(True)
    return count - len(there) * (count < len(there)) - 8 * holes - 8 * (guard in pages)


def used_slots(pages: Iterable[int], era: Era) -> list[int]:
    """Slots of which at least one page is mapped, guard pages not counted."""
    size, end = era.slot_size, era.stack_slots * era.slot_size
    offsets = (va - era.base for va in pages)
    return sorted({at // size for at in offsets if 0 <= at < end and at % size >= era.guard})


def slot_stack(slot: int, era: Era) -> KernelStack:
    """Slot i: guard at base + i*slot_size, the stack above it."""
    guard = era.base + slot * era.slot_size
    return KernelStack(
        f"slot {slot}",
        VirtAddr(guard + era.guard),
        VirtAddr(guard + era.slot_size),
        VirtAddr(guard),
    )


def ist_stacks(
    tops: Sequence[int],
    vectors: Mapping[int, str],
    mapped: Mapping[int, Leaf],
    known: Mapping[int, int],
) -> tuple[KernelStack, ...]:
    """One stack for each distinct IST top of the TSS that is not 0.

    `known` has the bottoms of those that the kernel's layout tells, by their tops; any other
    reaches down to the first unmapped page or the next top, and is one page when nothing is mapped.
    """
    stacks = []
    for index, top in enumerate(tops, 1):
        if not top or top in tops[: index - 1]:
            continue
        others = [t for t in tops if t and t < top]
        bottom = known.get(top)
        if bottom is None:
            bottom = (top - 1) & ~0xFFF
            while bottom - PAGE in mapped and bottom not in others:
                bottom -= PAGE
        what = vectors.get(index)
        stacks.append(
            KernelStack(
                f"IST{index} ({what})" if what else f"IST{index}",
                VirtAddr(bottom),
                VirtAddr(top),
                None,
                ist=index,
            )
        )
    return tuple(stacks)
