"""Translation tables of aarch64 as they stand: entries that lead out of RAM or round in a circle,
and pages of the kernel that programs reach.

Memory that the tables call a device's is no RAM by nature, and a direct map in blocks may be larger
than RAM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from breenix_gdbagent.aarch64.leaves import Leaf, half_leaves, named_tables
from breenix_gdbagent.aarch64.paging import EL0, NO_EL0_TABLE
from breenix_gdbagent.aarch64.translation import LAST, Half, Translation
from breenix_gdbagent.addresses import Hex, PhysAddr, VirtAddr
from breenix_gdbagent.checks.facts import ASIDE, Facts
from breenix_gdbagent.checks.finding import Code, Finding, NotChecked, Where
from breenix_gdbagent.checks.frames import BEYOND_RAM as FRAME_BEYOND_RAM
from breenix_gdbagent.checks.kernel_slots import SLOT_USER as USER_REACHES
from breenix_gdbagent.checks.reasons import NotRead, State
from breenix_gdbagent.checks.tables import BEYOND_RAM as TABLE_BEYOND_RAM
from breenix_gdbagent.checks.tables import CYCLE
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.memory import RamMap

_DEVICE = 0xF0
"""Bits of an attribute in MAIR_EL1 that are clear for device memory (D19.2.97)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFacts(Facts):
    """One entry that is wrong: in which space, for which address, and what it names. `more` counts
    those that are wrong in the same way."""

    space: str
    va: VirtAddr
    entry: Hex
    entry_pa: PhysAddr
    target: PhysAddr
    level: int
    more: Annotated[int, ASIDE] = 0


def check_tables(kernel: Kernel) -> Iterator[Finding]:
    """Tables in no RAM, and tables that name one above them. Raises `NotChecked`."""
    mode, ram = _needed(kernel)
    for label, root, half in _halves(kernel, mode):
        seen: dict[Code, list[EntryFacts]] = {}
        for entry in named_tables(kernel.tables, root, half):
            code = None
            if not ram.holds(entry.target, 8):
                code = TABLE_BEYOND_RAM
            elif entry.target in entry.above:
                code = CYCLE
            if code is not None:
                seen.setdefault(code, []).append(
                    EntryFacts(
                        space=label, va=entry.va, entry=Hex(entry.raw), entry_pa=entry.entry_pa,
                        target=entry.target, level=entry.level,
                    )
                )  # fmt: skip
        yield from _told(seen, root)


def check_frames(kernel: Kernel) -> Iterator[Finding]:
    """Pages of ordinary memory that are in no RAM. Raises `NotChecked`."""
    mode, ram = _needed(kernel)
    attributes = kernel.stop.cpu.get("mair_el1")
    if attributes is None:
        raise NotChecked(State.MEMORY_TYPES_NOT_KNOWN)
    for label, root, half in _halves(kernel, mode):
        found: dict[Code, list[EntryFacts]] = {}
        for leaf in half_leaves(kernel.tables, root, half, once=True):
            ordinary = attributes >> 8 * (leaf.raw >> 2 & 7) & _DEVICE
            if leaf.level == LAST and ordinary and not ram.holds(leaf.pa, 8):
                found.setdefault(FRAME_BEYOND_RAM, []).append(_facts(label, leaf))
        yield from _told(found, root)


def check_reach(kernel: Kernel) -> Iterator[Finding]:
    """Pages of the kernel's half that EL0 may read. Raises `NotChecked`."""
    mode = kernel.mode
    if not isinstance(mode, Translation):
        raise NotChecked(NotRead(kernel.stop.no_paging))
    found: dict[Code, list[EntryFacts]] = {}
    for leaf in half_leaves(kernel.tables, mode.kernel_root, mode.high, once=True):
        if leaf.raw & EL0 and (mode.high.flat or not leaf.above & NO_EL0_TABLE):
            found.setdefault(USER_REACHES, []).append(_facts(KERNEL, leaf))
    yield from _told(found, mode.kernel_root)


KERNEL = "the kernel's half"


def _facts(label: str, leaf: Leaf) -> EntryFacts:
    return EntryFacts(
        space=label, va=leaf.va, entry=Hex(leaf.raw), entry_pa=leaf.entry_pa, target=leaf.pa,
        level=leaf.level,
    )  # fmt: skip


def _needed(kernel: Kernel) -> tuple[Translation, RamMap]:
    mode, ram = kernel.mode, kernel.stop.memory.ram
    if not isinstance(mode, Translation):
        raise NotChecked(NotRead(kernel.stop.no_paging))
    if ram is None:
        raise NotChecked(State.END_OF_RAM_NOT_KNOWN)
    return mode, ram


def _halves(kernel: Kernel, mode: Translation) -> Iterator[tuple[str, PhysAddr, Half]]:
    """(whose, top table, half): the kernel's once, and each space's own."""
    yield KERNEL, mode.kernel_root, mode.high
    scope: tuple[Space, ...] = kernel.audit_scope
    for space in scope:
        yield space.label, mode.low.aligned(space.root), mode.low


def _told(found: dict[Code, list[EntryFacts]], root: PhysAddr) -> Iterator[Finding]:
    """One finding of each code, about the first entry."""
    for code, entries in found.items():
        first = replace(entries[0], more=len(entries) - 1)
        where = Where(root, first.va, first.target, first.entry, first.entry_pa, first.level)
        yield Finding(code, first.space, first, where)
