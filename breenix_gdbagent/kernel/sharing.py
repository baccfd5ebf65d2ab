"""What the kernel shares by design, learned from the tables themselves and not from a list.

A top-level slot is the kernel's when the master has it, it is not slot 0 (the bootloader's identity
mapping there; a process has its own, kernel/src/memory/process_memory.rs), and one of these holds:

- it lies in the upper half: all of it is copied from the master;
- a CPU stands on it: IDT, GDT, TSS, per-CPU block, handlers, or it holds the heap or the stacks;
- the master's entry is not for users, and most processes name the same table there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.x86.paging import ADDRESS, P, Tables, U, W

_SAME = ADDRESS | P
_COMPARED = ADDRESS | P | W | U
"""Bits of an entry that tell whether two spaces share it; A and D are the CPU's business."""
_TABLE = 4096


@dataclass(frozen=True, slots=True)
class KernelSlots:
    """The kernel's top-level slots, the master's entry of each slot, and what is kept there."""

    model: tuple[int, ...]
    slots: tuple[int, ...]
    uses: Mapping[int, str]
    _model: int
    _mask: int
    _own: int

    @classmethod
    def of(
        cls, model: tuple[int, ...], slots: Iterable[int], uses: Mapping[int, str]
    ) -> KernelSlots:
        """From the master's 512 entries."""
        kernel = tuple(sorted(slots))
        mask = sum(_COMPARED << 64 * slot for slot in kernel)
        others = set(range(512)) - set(kernel)
        own = sum(P << 64 * slot for slot in others)
        whole = sum(raw << 64 * slot for slot, raw in enumerate(model))
        return cls(model, kernel, uses, whole, mask, own)

    def differing(self, table: memoryview) -> list[int]:
        """Kernel slots in which a top table names another table than the master, or with other
        rights (P, W, U)."""
        raw = int.from_bytes(table.tobytes(), "little")
        other = (raw ^ self._model) & self._mask
        return _slots_set(other) if other else []

    def own(self, table: memoryview) -> list[int]:
        """Slots present in a top table that are not the kernel's."""
        return _slots_set(int.from_bytes(table.tobytes(), "little") & self._own)

    def elsewhere(self, table: memoryview) -> list[int]:
        """Kernel slots in which a top table is present but names another table than the master."""
        return [
            slot
            for slot in self.differing(table)
            if table[slot] & P and (table[slot] ^ self.model[slot]) & ADDRESS
        ]


def _slots_set(bits: int) -> list[int]:
    """Slots of which any bit is set, of 512 entries in one number."""
    found = []
    data = bits.to_bytes(_TABLE, "little")
    rest = data.lstrip(b"\0")
    while rest:
        slot = (_TABLE - len(rest)) // 8
        found.append(slot)
        rest = rest[8 * (slot + 1) - (_TABLE - len(rest)) :].lstrip(b"\0")
    return found


def learn_slots(
    tables: Tables, master: PhysAddr, processes: Iterable[PhysAddr], uses: Mapping[int, str]
) -> KernelSlots:
    """The kernel's slots, see above. `uses` are those a CPU stands on. Raises `Unreadable`."""
    model = tuple(tables.table(master).tolist())
    others = [tables.table(root) for root in processes]
    slots = []
    for slot in range(1, 512):
        raw = model[slot]
        if not raw & P:
            continue
        if slot < 256 and slot not in uses:
            if raw & U:
                continue
            same = sum(1 for table in others if not (table[slot] ^ raw) & _SAME)
            if same * 2 <= len(others) and others:
                continue
        slots.append(slot)
    return KernelSlots.of(model, slots, uses)
