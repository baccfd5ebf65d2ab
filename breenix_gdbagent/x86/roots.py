"""Every top table in memory, found from one that is known: by what kernels share.

Each address space of a kernel has the same kernel half. A frame whose upper entries name the same
tables as those of a known root is therefore a root of the same kernel, or was one: a freed frame
keeps its entries until it is used again. Who of them lives is for others to say.

Only one or two entries of each frame are looked at in the first pass, in one sweep of strided
bytes; the few frames that pass are compared entry by entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PAGE, PhysAddr
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.x86.paging import ADDRESS, P

if TYPE_CHECKING:
    from breenix_gdbagent.memory import PhysicalMemory

REFERENCE = "reference"
KERNEL_HALF = "kernel-half"
PTI_PAIR = "pti-pair"

_UPPER = range(256, 512)
_TRIED = 8
"""How many roots are asked for a partner before a kernel counts as one without."""
_SWEEP = 4 << 20
"""Bytes of memory looked at before the next column: what the caches hold on to."""


@dataclass(frozen=True, slots=True)
class RootCandidate:
    """A frame that is, or was, a top table.

    `how`: ``reference`` (the one given), ``kernel-half`` (its kernel half is that of the reference)
    or ``pti-pair`` (the other root of a kernel that has two for each process, Linux with page-table
    isolation). `differs` are the slots that name another table than the reference's, or none.
    """

    root: PhysAddr
    how: str
    differs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Which table each slot names in a known root, and how many of them may differ in another.

    Slots that name one and the same table count as one: Breenix has 253 of them.
    """

    slots: dict[int, int]
    groups: tuple[tuple[int, ...], ...]
    tolerance: int

    def differs(self, table: memoryview) -> tuple[int, ...] | None:
        """The slots in which `table` differs, None when it is too many to be the same kernel."""
        wrong = 0
        for group in self.groups:
            entry = table[group[0]]
            if not entry & P or entry & ADDRESS != self.slots[group[0]]:
                wrong += 1
                if wrong > self.tolerance:
                    return None
        return tuple(
            slot
            for slot, target in self.slots.items()
            if not table[slot] & P or table[slot] & ADDRESS != target
        )


def fingerprint(
    table: memoryview, root: int, slots: Sequence[int] | None = None, tolerance: int | None = None
) -> Fingerprint | None:
    """What to know the roots of a kernel by, from one of them.

    `slots` are the entries that count; None takes all that are present in the upper half, but for
    one that names the root itself. One table of four or more may then differ (a kernel slot that
    one process lacks is what we look for; Linux has a slot for ``modify_ldt``), unless `tolerance`
    says otherwise; of `slots` that are given none may. None where no slot is present.
    """
    wanted = _UPPER if slots is None else slots
    named = {
        slot: table[slot] & ADDRESS
        for slot in wanted
        if table[slot] & P and table[slot] & ADDRESS != root
    }
    if not named:
        return None
    by_table: dict[int, list[int]] = {}
    for slot, target in named.items():
        by_table.setdefault(target, []).append(slot)
    if tolerance is None:
        tolerance = 1 if slots is None and len(by_table) >= 4 else 0
    return Fingerprint(named, tuple(tuple(group) for group in by_table.values()), tolerance)


def scan_roots(
    memory: PhysicalMemory,
    reference_root: int,
    slots: Sequence[int] | None = None,
    tolerance: int | None = None,
) -> list[RootCandidate]:
    """Every frame of memory that looks like a root of the kernel that `reference_root` belongs to.

    In order of address, the reference included when it is in memory (else the list is empty).
    `slots` and `tolerance` as for `fingerprint`. Holes of the memory cost nothing.
    """
    reference = PhysAddr(reference_root & ADDRESS)
    try:
        table = memory.table(reference)
    except Unreadable:
        return []
    found = {reference: RootCandidate(reference, REFERENCE)}
    looked_for = fingerprint(table, reference, slots, tolerance)
    if looked_for is not None:
        for root, differs in _sweep(memory, looked_for):
            found.setdefault(root, RootCandidate(root, KERNEL_HALF, differs))
    other = None if slots is not None else _pti_partner_of_any(memory, reference, found)
    if other is not None:
        looked_for = fingerprint(memory.table(other), other)
        for root, differs in _sweep(memory, looked_for) if looked_for else ():
            found.setdefault(root, RootCandidate(root, PTI_PAIR, differs))
    return [found[root] for root in sorted(found)]


def _pti_partner_of_any(
    memory: PhysicalMemory, reference: PhysAddr, found: Iterable[PhysAddr]
) -> PhysAddr | None:
    """A root of the other kind than those found, of the first of them that has a partner.

    The reference may be the one that has none (the trampoline to real mode).
    """
    for root in (reference, *islice(found, _TRIED)):
        other = _pti_partner(memory, root, memory.table(root))
        if other is not None:
            return other
    return None


def _sweep(
    memory: PhysicalMemory, looked_for: Fingerprint
) -> Iterator[tuple[PhysAddr, tuple[int, ...]]]:
    anchors = _anchors(looked_for)
    for start, piece in memory.filled():
        for at in range(0, len(piece), _SWEEP):
            part = piece[at : at + _SWEEP]
            frames: set[int] = set()
            for slot, target in anchors:
                frames.update(_frames_with(part, slot, target))
            for number in sorted(frames):
                table = part[number * PAGE : (number + 1) * PAGE].cast("Q")
                differs = looked_for.differs(table)
                if differs is not None:
                    yield PhysAddr(start + at + number * PAGE), differs


def _anchors(looked_for: Fingerprint) -> list[tuple[int, int]]:
    """(slot, table) of so many slots that a root has at least one of them right.

    From the top, where kernels have the slots that never change; of one table all slots count as
    one, and those that share a cache line are cheapest.
    """
    needed = looked_for.tolerance + 1
    ordered = sorted(looked_for.groups, key=lambda group: -group[0])
    chosen = ordered[:needed]
    for one in ordered:
        line = [group for group in ordered if group[0] >> 3 == one[0] >> 3]
        if len(line) >= needed:
            chosen = line[:needed]
            break
    return [(group[0], looked_for.slots[group[0]]) for group in chosen]


def _frames_with(part: memoryview, slot: int, target: int) -> Iterable[int]:
    """Numbers of the 4 KiB frames of `part` whose entry `slot` may name `target`.

    Compares bits 47:16 of the entry, which no flag touches (A is set by the CPU in one root and
    not in the other); bits 39:8 where those are zero, as in most entries of most frames.
    """
    byte = 2 if target >> 16 else 1
    frames = len(part) // PAGE
    first = slot * 8 + byte
    column = part[first : first + (frames - 1) * PAGE + 4].cast("I")[:: PAGE // 4].tobytes()
    wanted = (target >> 8 * byte & 0xFFFF_FFFF).to_bytes(4, "little")
    at = column.find(wanted)
    while at >= 0:
        if at % 4 == 0:
            yield at // 4
            at += 3
        at = column.find(wanted, at + 1)


def _pti_partner(memory: PhysicalMemory, root: PhysAddr, table: memoryview) -> PhysAddr | None:
    """The other root of the pair, when `root` is one of two that a process has.

    Linux with page-table isolation keeps the kernel's root at an 8 KiB boundary and the user's in
    the next frame (arch/x86/include/asm/pgtable.h, kernel_to_user_pgdp). Their user halves name
    the same tables; of the kernel half the user's root has a little, some of it the same.
    """
    other = PhysAddr(root ^ PAGE)
    try:
        partner = memory.table(other)
    except Unreadable:
        return None
    kernel, user = (table, partner) if other > root else (partner, table)
    lower = all((a ^ b) & (ADDRESS | P) == 0 for a, b in zip(kernel[:256], user[:256], strict=True))
    if not lower:
        return None
    used = [slot for slot in _UPPER if user[slot] & P]
    same = [slot for slot in used if not (user[slot] ^ kernel[slot]) & (ADDRESS | P)]
    fewer = len(used) < sum(1 for slot in _UPPER if kernel[slot] & P)
    return other if same and fewer and all(kernel[slot] & P for slot in used) else None
