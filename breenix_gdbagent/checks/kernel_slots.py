"""Top-level slots of the kernel: the same in every space, each region with tables of its own.

Which slots are the kernel's is learned from the tables (kernel/sharing.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from breenix_gdbagent.addresses import Hex, PhysAddr, VirtAddr
from breenix_gdbagent.checks import any_kernel
from breenix_gdbagent.checks.completeness import require_finished_tables
from breenix_gdbagent.checks.facts import ASIDE, SPREAD, Facts
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.checks.reasons import NotRead, State
from breenix_gdbagent.kernel.ledger import FrameLedger
from breenix_gdbagent.kernel.sharing import KernelSlots
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.graph import Node
from breenix_gdbagent.x86.paging import U, W, frame_of, indexes_by_frame, present, slot_start

SLOT_MISSING = declare(
    "kernel-slot.missing",
    "error",
    "a process lacks a kernel slot that the master has",
    arises="The process's top-level table was copied from the master before the slot was filled, "
    "or skipped it.",
    confirm="pt walk an address of that slot under both roots.",
    mend="Fill every kernel slot of the master before the first process is created, and copy all "
    "of them into each process.",
)
SLOT_DIVERGED = declare(
    "kernel-slot.diverged",
    "error",
    "a process has a table of its own in a kernel slot",
    arises="The slot was mapped into a process instead of the master, or the master replaced its "
    "table after the process was made: mappings added later are seen by one side only.",
    confirm="pt diff MASTER PROCESS shows the two tables.",
    mend="Change kernel mappings through the master's tables only and copy top-level entries "
    "verbatim.",
)
SLOT_ALIASED = declare(
    "kernel-slot.aliased",
    "error",
    "two kernel slots of one space name the same table",
    arises="The entry of one region was copied into another's slot: mapping a page of one region "
    "makes it appear in the other.",
    confirm="pt walk the first address of both slots: the PML4 entries name one frame.",
    mend="Give each region its own PDPT when the master is built.",
)
SLOT_USER = declare(
    "kernel-slot.user-accessible",
    "error",
    "a kernel slot is open to ring 3",
    arises="U is set in the top-level entry, so that nothing but the lower levels keeps ring 3 "
    "out: mapping a user page below it sets U in the parents.",
    confirm="pt walk the address: U in the PML4 entry, and which levels below have it too.",
    mend="Clear U in the top-level entry of every kernel slot.",
)
SLOT_READ_ONLY = declare(
    "kernel-slot.read-only",
    "error",
    "a kernel slot that the kernel writes through is read-only in one space",
    arises="The PML4 entry lost W when it was copied with new flags.",
    confirm="pt walk an address of the slot under both roots.",
    mend="Copy the master's entry verbatim, flags included.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPage(Facts):
    """A page below a slot that ring 3 may use at every level."""

    user_page: VirtAddr
    pa: PhysAddr


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts(Facts):
    """The first of the top-level slots in which a space has another entry than the master."""

    slot: int
    slots: int
    holds: str
    space: Space
    master_entry: Hex
    entry: Hex
    below: Annotated[UserPage | None, SPREAD] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotAliasFacts(Facts):
    """Slots of one space that name one table (the first sixteen); `first` and `other` are two of
    them with what is kept there, None where that is not known."""

    slots: tuple[int, ...]
    aliases: int
    table: PhysAddr
    master_entries: tuple[Hex, ...]
    space: Annotated[Space, ASIDE]
    first: Annotated[tuple[int, str], ASIDE]
    other: Annotated[tuple[int, str | None], ASIDE]


def check(kernel: Kernel) -> Iterator[Finding]:
    """Each audited space's kernel slots against the master's, and regions against each other."""
    if not kernel.is_breenix and kernel.mode is not None:
        yield from any_kernel.check_slots(kernel, SLOT_USER)
        return
    ledger = kernel.ledger
    if ledger.master is None or ledger.slots is None:
        raise NotChecked(NotRead(kernel.no_master))
    if kernel.levels != 4:
        raise NotChecked(State.FIVE_LEVELS)
    for space in ledger.spaces:
        if space is not ledger.master:
            yield from _against_master(kernel, ledger.slots, space)
    for space in ledger.spaces:
        if space.role != "boot":
            yield from _aliased(kernel, ledger, space)
    yield from _user_below(kernel, ledger)
    require_finished_tables(kernel)


def _against_master(kernel: Kernel, slots: KernelSlots, space: Space) -> Iterator[Finding]:
    mine = kernel.tables.table(space.root)
    grouped: dict[tuple[str, int], list[int]] = defaultdict(list)
    for slot in slots.differing(mine):
        want, have = slots.model[slot], mine[slot]
        if not present(have):
            grouped[SLOT_MISSING.name, frame_of(want)].append(slot)
            continue
        if frame_of(want) != frame_of(have):
            grouped[SLOT_DIVERGED.name, frame_of(have)].append(slot)
        if want & W and not have & W:
            grouped[SLOT_READ_ONLY.name, frame_of(have)].append(slot)
        if have & U and not want & U:
            grouped[SLOT_USER.name, frame_of(have)].append(slot)
    codes = {c.name: c for c in (SLOT_MISSING, SLOT_DIVERGED, SLOT_READ_ONLY, SLOT_USER)}
    for (name, _), found in grouped.items():
        entry = mine[found[0]]
        where = _where(space, found[0], entry)
        yield Finding(codes[name], space.subject, _facts(slots, space, found, entry), where)


def _facts(slots: KernelSlots, space: Space, found: list[int], entry: int) -> SlotFacts:
    slot = found[0]
    return SlotFacts(
        slot=slot,
        slots=len(found),
        holds=slots.uses.get(slot, "kernel memory"),
        space=space,
        master_entry=Hex(slots.model[slot]),
        entry=Hex(entry),
    )


def _where(space: Space, slot: int, raw: int) -> Where:
    va = slot_start(slot)
    table = frame_of(raw) if present(raw) else None
    return Where(space.root, va, table, raw, space.root + slot * 8, 4)


def _aliased(kernel: Kernel, ledger: FrameLedger, space: Space) -> Iterator[Finding]:
    """Slots with a region of their own whose table another slot of the space names too."""
    assert ledger.slots is not None and ledger.master is not None
    model = ledger.slots.model
    if space is not ledger.master and not ledger.slots.differing(kernel.tables.table(space.root)):
        return  # what the master has in its slots is reported there
    mine = kernel.tables.table(space.root).tolist()
    used = ledger.slots.uses.items()
    regions = {
        **kernel.adapter.layout.uses,
        **{slot: what for slot, what in used if present(model[slot])},
    }
    for frame, slots in indexes_by_frame(mine).items():
        own = [s for s in slots if s in regions]
        if len(slots) < 2 or not own:
            continue
        moved = [s for s in slots if frame_of(mine[s]) != frame_of(model[s])]
        if space is not ledger.master and not moved:
            continue
        first = next((s for s in own if s in moved), own[0])
        other = next(s for s in slots if s != first)
        facts = SlotAliasFacts(
            slots=tuple(slots[:16]),
            aliases=len(slots),
            table=PhysAddr(frame),
            master_entries=(Hex(model[first]), Hex(model[other])),
            space=space,
            first=(first, regions[first]),
            other=(other, regions.get(other)),
        )
        yield Finding(SLOT_ALIASED, space.subject, facts, _where(space, first, mine[first]))


def _user_below(kernel: Kernel, ledger: FrameLedger) -> Iterator[Finding]:
    """Pages below the master's own kernel slots that ring 3 may use at every level."""
    assert ledger.slots is not None and ledger.master is not None
    for slot in ledger.slots.slots:
        raw = ledger.slots.model[slot]
        if not raw & U:
            continue
        top = ledger.graph.nodes.get(frame_of(raw) | kernel.levels - 1)
        reached = None if top is None else _first_user(ledger, top)
        if reached is None:
            continue
        node, index, leaf = reached
        page = ledger.page(node, index, leaf)
        facts = replace(
            _facts(ledger.slots, ledger.master, [slot], raw),
            below=UserPage(user_page=page.va, pa=page.pa),
        )
        where = Where(ledger.master.root, page.va, page.pa, leaf, page.entry_pa, node.level)
        yield Finding(SLOT_USER, ledger.master.subject, facts, where)


def _first_user(ledger: FrameLedger, top: Node) -> tuple[Node, int, int] | None:
    for node in ledger.graph.below(top):
        if node.rights & U:
            for index, raw in node.leaves():
                if raw & U:
                    return node, index, raw
    return None
