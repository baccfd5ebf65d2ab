"""What the kernel shares by design, learned from the tables themselves and not from a list.

A top-level slot is the kernel's when the master has it, it is not slot 0 (the bootloader's identity
mapping there; a process has its own, kernel/src/memory/process_memory.rs), and one of these holds:

- it lies in the upper half: all of it is copied from the master;
- a CPU stands on it: IDT, GDT, TSS, per-CPU block, handlers, or it holds the heap or the stacks;
- the master's entry is not for users, and most processes name the same table there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.x86.paging import effective_of, indexes_present, same_target
from breenix_gdbagent.x86.toptable import TopTable


class KernelSlots(TopTable):
    """The kernel's top-level slots, the master's entry of each slot, and what is kept there."""

    __slots__ = ("uses",)

    def __init__(self, model: Sequence[int], slots: Iterable[int], uses: Mapping[int, str]) -> None:
        super().__init__(model, slots)
        self.uses = uses


def learn_slots(
    tables: Tables, master: PhysAddr, processes: Iterable[PhysAddr], uses: Mapping[int, str]
) -> KernelSlots:
    """The kernel's slots, see above. `uses` are those a CPU stands on. Raises `Unreadable`."""
    model = tuple(tables.table(master).tolist())
    others = [tables.table(root) for root in processes]
    slots = []
    for slot in indexes_present(model):
        raw = model[slot]
        if not slot:
            continue
        if slot < 256 and slot not in uses:
            if effective_of(raw).u:
                continue
            same = sum(1 for table in others if same_target(table[slot], raw))
            if same * 2 <= len(others) and others:
                continue
        slots.append(slot)
    return KernelSlots(model, slots, uses)
