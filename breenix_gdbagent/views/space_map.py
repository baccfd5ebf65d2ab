"""What each address space maps, in regions of top-level slots, and the stack matrix beside it.

A slot that more than half of the spaces have in common is told once, in `SpaceMap.common`; `own` is
what each space has besides, or lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from breenix_gdbagent.addresses import sign_extended
from breenix_gdbagent.arch.spaces import Range
from breenix_gdbagent.arch.walks import Effective
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.views.stack_matrix import EMPTY, StackMatrix, stack_matrix
from breenix_gdbagent.x86.mapped_space import Spaces
from breenix_gdbagent.x86.paging import (
    SHAPE,
    index_at,
    indexes_present,
    same_target,
    slot_start,
    span,
)

HIGH_HALF = 256
"""The first slot above the hole of canonical addresses: what ring 3 may read there (Linux's
vsyscall page) is still the kernel's."""

MOST_SPACES = 64
MOST_RIGHTS = 4
"""Permissions named of one region, those of the most memory first."""


@dataclass(frozen=True, slots=True)
class Region:
    """Neighbouring top-level slots of one space that hold one thing.

    [start, end) reaches from the first mapped byte to the last, `mapped` counts the bytes between
    them that are (0: a slot that most spaces have and this one lacks); `rights` and `mapped` are
    those of the first slot where all slots name one table. `in_master`: the master PML4 has the
    same entry, None where it is not known.
    """

    first_slot: int
    last_slot: int
    start: int
    end: int
    mapped: int
    rights: tuple[Effective, ...]
    holds: str | None
    in_master: bool | None


@dataclass(frozen=True, slots=True)
class SpaceMap:
    """The audited spaces, at most `MOST_SPACES`; `left_out` counts those beyond. `reason` says why
    nothing could be looked at, else it is None."""

    spaces: tuple[Space, ...] = ()
    left_out: int = 0
    stacks: StackMatrix = EMPTY
    common: tuple[Region, ...] = ()
    own: tuple[tuple[Region, ...], ...] = ()
    reason: str | None = None


def space_map(kernel: Kernel) -> SpaceMap:
    """The map of a stop. Never raises: what is lacking is its `reason`."""
    if kernel.mode is None:
        return SpaceMap(reason=kernel.stop.no_paging)
    arch = kernel.arch
    if arch.vector_table is not None:
        return SpaceMap(reason=f"no map is drawn of the tables of {arch.name} (pt map lists them)")
    try:
        audited = kernel.audited
        shown = audited[:MOST_SPACES]
        if not shown:
            return SpaceMap(reason="no address space to audit")
        regions = _Regions(kernel, shown)
        return SpaceMap(
            shown,
            len(audited) - len(shown),
            stack_matrix(kernel, shown),
            regions.common(),
            tuple(regions.own(number) for number in range(len(shown))),
        )
    except ReadError as lacking:
        return SpaceMap(reason=lacking.what)


class _Regions:
    """What each shown space maps, by top slot; slots that most of them share apart."""

    def __init__(self, kernel: Kernel, shown: Sequence[Space]) -> None:
        self.kernel = kernel
        self.shown = shown
        self.levels = kernel.levels
        self.spaces = Spaces(kernel.tables, kernel.levels, kernel.nxe)
        self.entries = [kernel.tables.table(s.root).tolist() for s in shown]
        master = next((n for n, s in enumerate(shown) if s.role == "master"), None)
        self.model = None if master is None else self.entries[master]
        self.names = _slot_names(kernel)
        self.reference = master or 0
        first = self.entries[self.reference]
        self.shared = {
            slot: first[slot] & SHAPE
            for slot in indexes_present(first)
            if len(shown) > 1
            and 2 * sum(not (e[slot] ^ first[slot]) & SHAPE for e in self.entries) > len(shown)
        }

    def common(self) -> tuple[Region, ...]:
        return self._regions(self.reference, sorted(self.shared))

    def own(self, number: int) -> tuple[Region, ...]:
        entries = self.entries[number]
        slots = [s for s in range(512) if self.shared.get(s) != entries[s] & SHAPE]
        return self._regions(number, slots)

    def _regions(self, number: int, slots: Sequence[int]) -> tuple[Region, ...]:
        entries = self.entries[number]
        by_slot = _by_slot(self.spaces.space(self.shown[number].root).ranges, self.levels)
        found: list[Region] = []
        above: tuple[int, int] | None = None  # the slot before and its entry
        there = set(indexes_present(entries))
        for slot in slots:
            key = entries[slot] & SHAPE if slot in there else self.shared.get(slot, 0)
            ranges = by_slot.get(slot, [])
            if not key or (slot in there and not ranges):
                above = None
                continue
            if above == (slot - 1, key):
                last = found[-1]
                end = ranges[-1].end if ranges else self._base(slot) + span(self.levels)
                found[-1] = replace(last, last_slot=slot, end=end)
            elif ranges:
                self._append(found, self._region(number, slot, ranges))
            else:
                found.append(self._missing(slot))
            above = (slot, key)
        return tuple(found)

    def _base(self, slot: int) -> int:
        return slot_start(slot, self.levels)

    def _missing(self, slot: int) -> Region:
        """A slot that most spaces have and this one lacks: nothing mapped in all of it."""
        start = self._base(slot)
        return Region(
            slot, slot, start, start + span(self.levels), 0, (), self.names.get(slot), False
        )

    def _append(self, found: list[Region], new: Region) -> None:
        """Adds `new`, to the region before it where both are one stretch of memory."""
        if found:
            last = found[-1]
            one = (last.rights, last.holds, last.in_master) == (
                new.rights, new.holds, new.in_master,
            )  # fmt: skip
            if one and last.last_slot == new.first_slot - 1 and last.end == new.start:
                mapped = last.mapped + new.mapped
                found[-1] = replace(last, last_slot=new.last_slot, end=new.end, mapped=mapped)
                return
        found.append(new)

    def _region(self, number: int, slot: int, ranges: Sequence[Range]) -> Region:
        weights: dict[Effective, int] = {}
        for r in ranges:
            right = Effective(r.w, r.u, r.nx)
            weights[right] = weights.get(right, 0) + r.end - r.start
        order = sorted(weights, key=lambda right: (-weights[right], _strength(right)))
        same = None
        if self.model is not None:
            same = same_target(self.model[slot], self.entries[number][slot])
        return Region(
            slot, slot, ranges[0].start, ranges[-1].end, sum(weights.values()),
            tuple(order[:MOST_RIGHTS]), self._holds(number, slot, ranges), same,
        )  # fmt: skip

    def _holds(self, number: int, slot: int, ranges: Sequence[Range]) -> str | None:
        if (named := self.names.get(slot)) is not None:
            return named
        if any(r.u for r in ranges) and slot < HIGH_HALF:
            return "user memory"
        first = ranges[0]
        pa = self.kernel.walk(self.shown[number].root, first.start).pa
        if pa is not None and int(pa) == int(first.start):
            return "identity map"
        ram = self.kernel.stop.memory.ram
        if pa is not None and ram is not None and not ram.holds(pa, 4096):
            return "device memory"
        if pa == 0 and first.end - first.start >= 1 << 24:
            return "direct map of RAM"
        return None


def _strength(right: Effective) -> tuple[bool, bool, bool]:
    """Orders permissions of equal weight: the lesser ones first."""
    return right.w, not right.nx, right.u


def _by_slot(ranges: Sequence[Range], levels: int) -> dict[int, list[Range]]:
    """Ranges cut at the borders of top slots."""
    found: dict[int, list[Range]] = {}
    size = span(levels)
    for r in ranges:
        start = r.start
        while start < r.end:
            end = min(r.end, (start | size - 1) + 1)
            piece = (
                r
                if (start, end) == (r.start, r.end)
                else r._replace(start=sign_extended(start), end=type(r.end)(end))
            )
            found.setdefault(index_at(start, levels), []).append(piece)
            start = type(r.start)(end)
    return found


def _slot_names(kernel: Kernel) -> dict[int, str]:
    """Top slot -> what Breenix keeps there: its constants, and where its code runs."""
    if kernel.levels != 4 or not kernel.is_breenix:
        return {}
    names = dict(kernel.adapter.layout.uses)
    try:
        for slot in kernel.handler_slots:
            names.setdefault(slot, "kernel image")
    except ReadError:
        pass
    for block in kernel.percpus:
        names.setdefault(index_at(block.base, kernel.levels), "per-CPU block")
    return names
