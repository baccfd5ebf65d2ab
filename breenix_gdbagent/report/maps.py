"""The deciding stop drawn small, for the document: the stack matrix and what each space maps.

Every face draws from these values, so live and offline draw the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from breenix_gdbagent.addresses import hex64, sign_extended
from breenix_gdbagent.checks import kernel_stacks
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.layout import HEAP_SLOT, IST_STACKS_SLOT, KERNEL_STACKS_SLOT
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.stacks import KernelStack
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.mappings import rights
from breenix_gdbagent.x86.mapped_space import Range, Spaces
from breenix_gdbagent.x86.paging import SHAPE, index_at, present, same_target, slot_start, span

HIGH_HALF = 256
"""The first slot above the hole of canonical addresses: what ring 3 may read there (Linux's
vsyscall page) is still the kernel's."""

MOST_SPACES = 64
MOST_RIGHTS = 4
"""Bits of a top entry that decide what lies below it; A and D differ by use alone."""


def build(kernel: Kernel) -> dict[str, Json]:
    """The document's ``maps``. Never raises: what cannot be drawn says why in ``reason``."""
    empty: dict[str, Json] = {
        "spaces": [], "left_out": 0, "stacks": [], "common": [], "own": [], "reason": None,
    }  # fmt: skip
    if kernel.mode is None:
        return {**empty, "reason": kernel.stop.no_paging}
    try:
        audited = kernel.audited
        drawn = audited[:MOST_SPACES]
        if not drawn:
            return {**empty, "reason": "no address space to audit"}
        regions = _Regions(kernel, drawn)
        return {
            "spaces": [hex64(s.root) for s in drawn],
            "left_out": len(audited) - len(drawn),
            "stacks": _stacks(kernel, drawn),
            "common": regions.common(),
            "own": [regions.own(n) for n in range(len(drawn))],
            "reason": None,
        }
    except ReadError as lacking:
        return {**empty, "reason": lacking.what}


def _stacks(kernel: Kernel, drawn: Sequence[Space]) -> list[Json]:
    """One row a stack: a glyph for each space, by what the check compares."""
    glyphs: dict[tuple[str, int], str] = {}
    for compared in kernel_stacks.compare(kernel):
        glyph = _glyph(compared)
        glyphs.update(((compared.stack.name, space.root), glyph) for space in compared.spaces)
    return [
        {
            "stack": stack.name,
            "bottom": hex64(stack.bottom),
            "top": hex64(stack.top),
            "guard": None if stack.guard is None else hex64(stack.guard),
            "ist": stack.ist,
            "cells": "".join(glyphs.get((stack.name, space.root), "?") for space in drawn),
            "users": list(_users(kernel, stack)),
        }
        for stack in (*kernel.stacks, *kernel.ist)
        if kernel.master is not None
    ]


_GLYPHS = (
    (kernel_stacks.GUARD_MAPPED, "g"),
    (kernel_stacks.USER_ACCESSIBLE, "u"),
    (kernel_stacks.READ_ONLY, "r"),
    (kernel_stacks.DIFFERS, "d"),
    (kernel_stacks.EXECUTABLE, "x"),
)
"""What a stack that is mapped suffers from, worst first (`cells.CELLS`)."""


def _glyph(compared: kernel_stacks.Compared) -> str:
    """The worst that the check finds there."""
    if compared.reason is not None:
        return "?"
    wrong = compared.wrong
    missing = wrong.get(kernel_stacks.UNMAPPED) or wrong.get(kernel_stacks.IST_UNMAPPED)
    if missing:
        return "-" if len(missing) == len(compared.stack.pages) else "p"
    return next((glyph for code, glyph in _GLYPHS if code in wrong), ".")


def _users(kernel: Kernel, stack: KernelStack) -> Iterator[str]:
    for cpu in kernel.stop.cpus:
        rsp = cpu.get("rsp")
        if rsp is not None and stack.holds(rsp):
            yield f"RSP of CPU {cpu.index}"
        tss = kernel.tss.get(cpu.index)
        if tss is not None and stack.ist is None and stack.holds(tss.rsp0):
            yield f"RSP0 of CPU {cpu.index}"


@dataclass(frozen=True, slots=True)
class Region:
    """Neighbouring top slots of one space that hold one thing; `ranges` of the first of them."""

    first: int
    last_slot: int
    start: int
    end: int
    mapped: int
    rights: tuple[str, ...]
    holds: str | None
    in_master: bool | None

    def json(self) -> dict[str, Json]:
        return {
            "start": hex64(self.start),
            "last": hex64(self.end - 1),
            "slots": [self.first, self.last_slot],
            "mapped": self.mapped,
            "rights": list(self.rights),
            "holds": self.holds,
            "in_master": self.in_master,
        }


class _Regions:
    """What each drawn space maps, by top slot; slots that all of them share apart."""

    def __init__(self, kernel: Kernel, drawn: Sequence[Space]) -> None:
        self.kernel = kernel
        self.drawn = drawn
        self.levels = kernel.levels
        self.spaces = Spaces(kernel.tables, kernel.levels, kernel.nxe)
        self.entries = [kernel.tables.table(s.root).tolist() for s in drawn]
        master = next((n for n, s in enumerate(drawn) if s.role == "master"), None)
        self.model = None if master is None else self.entries[master]
        self.names = _slot_names(kernel)
        self.reference = master or 0
        first = self.entries[self.reference]
        self.shared = {
            slot: first[slot] & SHAPE
            for slot in range(512)
            if len(drawn) > 1
            and present(first[slot])
            and 2 * sum(not (e[slot] ^ first[slot]) & SHAPE for e in self.entries) > len(drawn)
        }

    def common(self) -> list[Json]:
        return [r.json() for r in self._regions(self.reference, sorted(self.shared))]

    def own(self, number: int) -> list[Json]:
        entries = self.entries[number]
        slots = [s for s in range(512) if self.shared.get(s) != entries[s] & SHAPE]
        return [r.json() for r in self._regions(number, slots)]

    def _regions(self, number: int, slots: Sequence[int]) -> list[Region]:
        entries = self.entries[number]
        by_slot = _by_slot(self.spaces.space(self.drawn[number].root).ranges, self.levels)
        found: list[Region] = []
        above: tuple[int, int] | None = None  # the slot before and its entry
        for slot in slots:
            raw = entries[slot]
            key = raw & SHAPE if present(raw) else self.shared.get(slot, 0)
            ranges = by_slot.get(slot, [])
            if not key or (present(raw) and not ranges):
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
        return found

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
            if one and last.last_slot == new.first - 1 and last.end == new.start:
                mapped = last.mapped + new.mapped
                found[-1] = replace(last, last_slot=new.last_slot, end=new.end, mapped=mapped)
                return
        found.append(new)

    def _region(self, number: int, slot: int, ranges: Sequence[Range]) -> Region:
        weights: dict[str, int] = {}
        for r in ranges:
            name = rights(r)
            weights[name] = weights.get(name, 0) + r.end - r.start
        order = sorted(weights, key=lambda name: (-weights[name], name))
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
        pa = self.kernel.walk(self.drawn[number].root, first.start).pa
        if pa is not None and int(pa) == int(first.start):
            return "identity map"
        ram = self.kernel.stop.memory.ram
        if pa is not None and ram is not None and not ram.holds(pa, 4096):
            return "device memory"
        if pa == 0 and first.end - first.start >= 1 << 24:
            return "direct map of RAM"
        return None


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
    names = {
        KERNEL_STACKS_SLOT: "kernel stacks",
        IST_STACKS_SLOT: "IST stacks",
        HEAP_SLOT: "kernel heap",
    }
    try:
        for gate in kernel.gates.values():
            names.setdefault(index_at(gate.offset, kernel.levels), "kernel image")
    except ReadError:
        pass
    for block in kernel.percpus:
        names.setdefault(index_at(block.base, kernel.levels), "per-CPU block")
    return names
