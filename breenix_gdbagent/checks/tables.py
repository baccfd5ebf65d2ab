"""Page tables as a graph: what the kernel shares by design, and what is shared or lacks it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from breenix_gdbagent.addresses import hex64, sign_extended
from breenix_gdbagent.checks.finding import Code, Finding, NotChecked, Where, declare
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.layout import (
    HEAP_SLOT,
    IST_STACKS_SLOT,
    KERNEL_STACKS_SLOT,
)
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import ADDRESS, PS, P, U, W

_PROCESS = "kernel/src/memory/process_memory.rs"
_MASTER = "kernel/src/memory/kernel_page_table.rs"

SLOT_MISSING = declare(
    "kernel-slot.missing",
    "error",
    "a process lacks a kernel slot that the master has",
    arises="ProcessPageTable::new copied the master before the slot was filled, or skipped it "
    "(heap PML4[136]: Breenix 5124c528).",
    confirm="pt walk an address of that slot under both roots.",
    mend="Fill every kernel slot of the master before the first process is created, and copy all "
    "of them in ProcessPageTable::new.",
    see=(_PROCESS, _MASTER),
)
SLOT_DIVERGED = declare(
    "kernel-slot.diverged",
    "error",
    "a process has a table of its own in a kernel slot",
    arises="The slot was mapped into a process instead of the master, or the master replaced its "
    "table after the process was made: mappings added later are seen by one side only.",
    confirm="pt diff MASTER PROCESS shows the two tables.",
    mend="Change kernel mappings through the master's tables only (map_kernel_page) and copy PML4 "
    "entries verbatim.",
    see=(_PROCESS, _MASTER),
)
SLOT_ALIASED = declare(
    "kernel-slot.aliased",
    "error",
    "two kernel slots of one space name the same table",
    arises="The entry of one region was copied into another's slot (402 and 403: Breenix 7b6bc74c, "
    "5124c528): mapping a page of one region makes it appear in the other.",
    confirm="pt walk the first address of both slots: the PML4 entries name one frame.",
    mend="Give each region its own PDPT in build_master_kernel_pml4; it asserts 402 != 403.",
    see=(_MASTER,),
)
SLOT_USER = declare(
    "kernel-slot.user-accessible",
    "error",
    "ring 3 can reach memory of the kernel",
    arises="U is set at every level of a kernel slot; map_to ORs U into the parents when a user "
    "page is mapped below them.",
    confirm="pt walk the address: U at all levels.",
    mend="Clear USER_ACCESSIBLE at the PML4 entry of every kernel slot.",
    see=(_PROCESS,),
)
SLOT_READ_ONLY = declare(
    "kernel-slot.read-only",
    "error",
    "a kernel slot that the kernel writes through is read-only in one space",
    arises="The PML4 entry lost W when it was copied with new flags.",
    confirm="pt walk an address of the slot under both roots.",
    mend="Copy the master's entry verbatim, flags included.",
    see=(_PROCESS,),
)
SHARED_USER = declare(
    "shared-table.user",
    "error",
    "two processes share a page table of user memory",
    arises="All 512 PML4 entries were copied instead of the kernel's (Breenix 0f2f0b72), or a user "
    "slot was reached through the master (a43d6d48): mapping a page in one process maps it in the "
    "other, and the second map_to fails with PageAlreadyMapped.",
    confirm="pt walk the address under both roots: the entries name one table frame.",
    mend="Give each process fresh tables for its user slots (ProcessPageTable::new).",
    see=(_PROCESS,),
)
SHARED_CONFLICT = declare(
    "shared-table.conflict",
    "error",
    "one frame is used as tables of two levels",
    arises="A table frame was given out again while still linked, or an entry was written one "
    "level too high.",
    confirm="pt who FRAME lists both uses.",
    mend="Look for a table freed while referenced.",
    see=("kernel/src/memory/frame_allocator.rs",),
)
CYCLE = declare(
    "table.cycle",
    "error",
    "a page table leads back to itself",
    arises="An entry names a table above it: every walk through it ends somewhere unintended and "
    "user code may edit page tables through it.",
    confirm="pt walk the address shows the same frame twice.",
    mend="Breenix uses no recursive mapping: clear the entry.",
    see=(_MASTER,),
)
BEYOND_RAM = declare(
    "table.beyond-ram",
    "error",
    "an entry names a page table outside RAM",
    arises="The entry was overwritten, or a frame number beyond RAM was given out.",
    confirm="pt walk the address: reason unreadable at that level.",
    mend="Check the frame allocator's regions against the memory map.",
    see=("kernel/src/memory/frame_allocator.rs",),
)


@dataclass(frozen=True, slots=True)
class Link:
    """A table as one space reaches it: through `entry` at `entry_pa`, for addresses from `va`."""

    frame: int
    level: int
    entry: int
    entry_pa: int
    va: int
    user: bool


def check(kernel: Kernel) -> Iterator[Finding]:
    """Kernel slots against the master, user tables against each other, and the graph's shape."""
    master = kernel.master
    if master is None:
        raise NotChecked("no Breenix per-CPU block: the master PML4 is not known")
    processes = [s for s in kernel.audited if s.role == "process"]
    for space in processes:
        yield from _kernel_slots(kernel, master, space, processes)
    for space in (master, *processes):
        yield from _aliased_slots(kernel, master, space)
    yield from _graph(kernel, [master, *processes])


def kernel_slots(kernel: Kernel, master: Space, processes: list[Space]) -> list[int]:
    """Slots that are the kernel's by design, learned: what the master has without U, and either
    lies in the upper half, holds something the kernel runs on, or is the same in most processes."""
    table = kernel.tables.table(master.root)
    needed = slots_in_use(kernel)
    others = [kernel.tables.table(s.root) for s in processes]
    slots = []
    for slot in range(512):
        raw = table[slot]
        if not raw & P or raw & U:
            continue
        same = sum(1 for t in others if t[slot] & P and not (t[slot] ^ raw) & ADDRESS)
        if slot >= 256 or slot in needed or same * 2 > len(others):
            slots.append(slot)
    return slots


def slots_in_use(kernel: Kernel) -> dict[int, str]:
    """PML4 slot -> what the kernel keeps there, from the registers themselves."""
    found = {
        KERNEL_STACKS_SLOT: "kernel stacks",
        IST_STACKS_SLOT: "IST stacks",
        HEAP_SLOT: "kernel heap",
    }
    for cpu in kernel.stop.cpus:
        for what, place in (("IDT", cpu.idtr), ("GDT", cpu.gdtr), ("TSS", cpu.tr)):
            if place is not None and place.base:
                found.setdefault(place.base >> 39 & 0x1FF, what)
    for block in kernel.percpus:
        found.setdefault(block.base >> 39 & 0x1FF, "per-CPU block")
    try:
        for gate in kernel.gates.values():
            found.setdefault(gate.offset >> 39 & 0x1FF, "interrupt handlers")
    except ReadError:
        pass
    found.pop(0, None)  # the bootloader's identity mapping: a process has its own PML4[0]
    return found


def _slot_va(slot: int) -> int:
    return sign_extended(slot << 39)


def _entry(space: Space, slot: int, raw: int) -> Where:
    return Where(space.root, _slot_va(slot), raw & ADDRESS, raw, space.root + slot * 8, 4)


def _kernel_slots(
    kernel: Kernel, master: Space, space: Space, processes: list[Space]
) -> Iterator[Finding]:
    model, mine = kernel.tables.table(master.root), kernel.tables.table(space.root)
    uses = slots_in_use(kernel)
    grouped: dict[tuple[str, int], list[int]] = defaultdict(list)
    for slot in kernel_slots(kernel, master, processes):
        want, have = model[slot], mine[slot]
        if not have & P:
            grouped[SLOT_MISSING.name, want & ADDRESS].append(slot)
            continue
        if (want ^ have) & ADDRESS:
            grouped[SLOT_DIVERGED.name, have & ADDRESS].append(slot)
        if want & W and not have & W:
            grouped[SLOT_READ_ONLY.name, have & ADDRESS].append(slot)
        if have & U:
            grouped[SLOT_USER.name, have & ADDRESS].append(slot)
    codes = {c.name: c for c in (SLOT_MISSING, SLOT_DIVERGED, SLOT_READ_ONLY, SLOT_USER)}
    for (name, _), slots in grouped.items():
        code = codes[name]
        if code is SLOT_USER and not _reaches_user(kernel, space, slots[0]):
            continue
        slot = slots[0]
        what = uses.get(slot, "kernel memory")
        also = f" and {len(slots) - 1} more slots" if len(slots) > 1 else ""
        yield Finding(
            code,
            f"{code.title}: {space.label}, PML4[{slot}] ({what}){also}",
            space.subject,
            {
                "slot": slot,
                "slots": len(slots),
                "holds": what,
                "process": {"pid": space.pid, "name": space.name, "root": hex64(space.root)},
                "master_entry": hex64(model[slot]),
                "entry": hex64(mine[slot]),
            },
            _entry(space, slot, mine[slot]),
            fix=code.mend,
        )


def _reaches_user(kernel: Kernel, space: Space, slot: int) -> bool:
    """Whether any page below the slot is user-accessible over all levels."""
    return any(r.u for r in kernel.ranges(space.root, slot))


def _aliased_slots(kernel: Kernel, master: Space, space: Space) -> Iterator[Finding]:
    """Slots with a region of their own whose table another slot names too."""
    mine = kernel.tables.table(space.root)
    model = kernel.tables.table(master.root)
    regions = {KERNEL_STACKS_SLOT: "kernel stacks", IST_STACKS_SLOT: "IST stacks"} | {
        slot: what for slot, what in slots_in_use(kernel).items() if model[slot] & P
    }
    by_frame: dict[int, list[int]] = defaultdict(list)
    for slot in range(512):
        if mine[slot] & P:
            by_frame[mine[slot] & ADDRESS].append(slot)
    for frame, slots in by_frame.items():
        own = [s for s in slots if s in regions]
        if len(slots) < 2 or not own:
            continue
        if space is not master and all(not (mine[s] ^ model[s]) & ADDRESS for s in slots):
            continue  # the master has it so, and it is reported there
        first = own[0]
        other = next(s for s in slots if s != first)
        yield Finding(
            SLOT_ALIASED,
            f"PML4[{first}] ({regions[first]}) and PML4[{other}]"
            f"{f' ({regions[other]})' if other in regions else ''} of {space.label} name one "
            f"table, {hex64(frame)}"
            + (f" (as do {len(slots) - 2} more)" if len(slots) > 2 else ""),
            space.subject,
            {
                "slots": list[Json](slots[:16]),
                "aliases": len(slots),
                "table": hex64(frame),
                "master_entries": [hex64(model[s]) for s in (first, other)],
            },
            _entry(space, first, mine[first]),
            fix=SLOT_ALIASED.mend,
        )


def _graph(kernel: Kernel, spaces: list[Space]) -> Iterator[Finding]:
    """Walk every table once: cycles, levels, tables outside RAM, user tables of two spaces."""
    levels: dict[int, set[int]] = defaultdict(set)
    owners: dict[int, dict[int, Link]] = defaultdict(dict)
    ram = kernel.stop.memory.ram
    walked: set[tuple[int, int, int]] = set()
    pending: list[Finding] = []

    def visit(
        space: Space, frame: int, level: int, va: int, user: bool, above: tuple[int, ...]
    ) -> None:
        try:
            table = kernel.tables.table(frame)
        except ReadError:
            return
        levels[frame].add(level)
        key = (space.root if user else 0, frame, level)
        if key in walked:
            return
        walked.add(key)
        if level == 1:
            return
        shift = 12 + 9 * (level - 1)
        for index in range(512):
            raw = table[index]
            if not raw & P or (raw & PS and level <= 3):
                continue
            below = raw & ADDRESS
            at = va + (index << shift)
            entry_pa = frame + index * 8
            where = Where(space.root, sign_extended(at, kernel.levels), below, raw, entry_pa, level)
            if below == frame or below in above:
                pending.append(_shape(CYCLE, space, where, below))
            elif ram is not None and not ram.holds(below, 4096):
                pending.append(_shape(BEYOND_RAM, space, where, below))
            else:
                through = user and bool(raw & U)
                if through:
                    known = owners[below].get(space.root)
                    link = Link(below, level - 1, raw, entry_pa, where.va or 0, True)
                    if known is None:
                        owners[below][space.root] = link
                visit(space, below, level - 1, at, through, (*above, frame))

    for space in spaces:
        visit(space, space.root, kernel.levels, 0, True, ())
    yield from pending
    yield from _conflicts(levels)
    yield from _shared(kernel, spaces, owners)


def _shape(code: Code, space: Space, where: Where, frame: int) -> Finding:
    return Finding(
        code,
        f"{code.title}: entry {hex64(where.entry or 0)} at {hex64(where.entry_pa or 0)} "
        f"({space.label}, from {hex64(where.va or 0)}) names {hex64(frame)}",
        space.subject,
        {"table": hex64(frame), "level": where.level},
        where,
        fix=code.mend,
    )


def _conflicts(levels: dict[int, set[int]]) -> Iterator[Finding]:
    for frame, used in sorted(levels.items()):
        if len(used) > 1:
            yield Finding(
                SHARED_CONFLICT,
                f"frame {hex64(frame)} is used as a table of levels "
                f"{' and '.join(str(n) for n in sorted(used))}",
                "table",
                {"frame": hex64(frame), "levels": list[Json](sorted(used))},
                Where(pa=frame),
                fix=SHARED_CONFLICT.mend,
            )


def _shared(
    kernel: Kernel, spaces: list[Space], owners: dict[int, dict[int, Link]]
) -> Iterator[Finding]:
    """The topmost user tables that two spaces reach; what lies below them is shared with them."""
    by_root = {s.root: s for s in spaces}
    shared = {f: links for f, links in owners.items() if len(links) > 1}
    reuse = kernel.era is None or kernel.era.name != "2025"
    below: Counter[int] = Counter()
    for frame, links in shared.items():
        for link in links.values():
            parent = link.entry_pa & ~0xFFF
            if parent in shared and parent != frame:
                below[frame] += 1
                break
    for frame, links in sorted(shared.items()):
        holders = [by_root[r] for r in links if r in by_root]
        if below[frame] or (reuse and sum(1 for s in holders if s.live) < 2):
            # Where frames are given back, a root that nobody vouches for may be a dead one whose
            # tables serve others by now.
            continue
        first, second = list(links.values())[:2]
        names = " and ".join(s.label for s in holders)
        yield Finding(
            SHARED_USER,
            f"{names} share one level-{first.level} table of user memory, {hex64(frame)}, "
            f"for addresses from {hex64(first.va)}",
            "+".join(sorted(s.subject for s in holders)),
            {
                "table": hex64(frame),
                "level": first.level,
                "spaces": [{"root": hex64(s.root), "pid": s.pid, "name": s.name} for s in holders],
                "entries": [
                    {"entry_pa": hex64(link.entry_pa), "entry": hex64(link.entry)}
                    for link in (first, second)
                ],
            },
            Where(holders[0].root, first.va, frame, first.entry, first.entry_pa, first.level + 1),
            fix=SHARED_USER.mend,
        )
