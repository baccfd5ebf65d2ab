"""Invariants of tables, frames and roots, broken one by one in a capture of the real kernel.

Exactly their codes are new; see `test_mutations`.
"""

from __future__ import annotations

import pytest

from breenix_gdbagent.stop import SerialChunk, SerialText
from tests.unit.checks.mutation import (
    BEYOND_RAM,
    HEAP,
    IF,
    NX,
    SEED,
    SYSCALL,
    Hand,
    Mutation,
    P,
    U,
    W,
    cases,
    hold,
    registry,
)

STACKS, IST = 402, 403
MUTATIONS, mutation = registry()


# -- slots and tables ---------------------------------------------------------------------------


@mutation("kernel-slot.missing")
def heap_missing_in_one_process(hand: Hand) -> None:
    hand.change(hand.processes[1].root, HEAP, 4, lambda raw: 0)


@mutation("kernel-slot.diverged")
def heap_has_other_tables_in_one_process(hand: Hand) -> None:
    hand.privatise(hand.processes[1].root, HEAP)


@mutation("kernel-slot.aliased", "kernel-slot.diverged", "ist.unmapped")
def ist_slot_names_the_kernel_stacks(hand: Hand) -> None:
    table = hand.memory.entry(hand.master.root + 8 * STACKS)
    hand.memory.set_entry(hand.processes[1].root + 8 * IST, table)


@mutation("kernel-slot.aliased")
def two_slots_name_the_heap_everywhere(hand: Hand) -> None:
    heap = hand.memory.entry(hand.master.root + 8 * 136)
    for space in (hand.master, *hand.processes):
        hand.memory.set_entry(space.root + 8 * 137, heap)


@mutation("kernel-slot.user-accessible")
def heap_open_to_ring_3_in_one_process(hand: Hand) -> None:
    hand.change(hand.processes[1].root, HEAP, 4, lambda raw: raw | U)


@mutation("kernel-slot.read-only")
def heap_read_only_in_one_process(hand: Hand) -> None:
    hand.change(hand.processes[1].root, HEAP, 4, lambda raw: raw & ~W)


@mutation("shared-table.user", captures=SEED)
def two_processes_share_their_low_half(hand: Hand) -> None:
    one, two = hand.processes[1], hand.processes[2]
    hand.memory.set_entry(two.root, hand.memory.entry(one.root))


@mutation(captures=("breenix-head-cow-fault",))
def two_roots_that_nobody_vouches_for_share(hand: Hand) -> None:
    """Where frames come back, one of them may be dead."""
    one, two = hand.processes[1], hand.processes[2]
    hand.memory.set_entry(two.root, hand.memory.entry(one.root))


@mutation("shared-table.conflict", captures=SEED)
def kernel_table_in_a_user_half(hand: Hand) -> None:
    directory = hand.memory.entry(hand.entry_pa(hand.master.root, HEAP, 3))
    at = hand.entry_pa(hand.processes[1].root, 0x8000_0000, 3)
    hand.memory.set_entry(at, directory)


@mutation("shared-table.conflict")
def one_table_named_twice(hand: Hand) -> None:
    directory = hand.memory.entry(hand.entry_pa(hand.master.root, HEAP, 3))
    at = hand.entry_pa(hand.master.root, HEAP + (7 << 30), 3)
    hand.memory.set_entry(at, directory)


@mutation("shared-table.conflict")
def one_frame_as_tables_of_two_levels(hand: Hand) -> None:
    own = hand.fresh()
    hand.memory.set_entry(hand.entry_pa(hand.master.root, HEAP + (7 << 30), 3), own | P | W)
    hand.memory.set_entry(hand.entry_pa(hand.master.root, HEAP + (64 << 21), 2), own | P | W)


@mutation("table.cycle")
def table_names_itself(hand: Hand) -> None:
    at = hand.entry_pa(hand.master.root, HEAP + (9 << 30), 3)
    hand.memory.set_entry(at, at & ~0xFFF | P | W)


@mutation("table.beyond-ram")
def table_where_there_is_no_ram(hand: Hand) -> None:
    at = hand.entry_pa(hand.master.root, HEAP + (9 << 30), 3)
    hand.memory.set_entry(at, BEYOND_RAM | P | W)


@mutation("table.beyond-ram")
def table_in_the_memory_of_a_device(hand: Hand) -> None:
    """The local APIC: reading it would act on it."""
    at = hand.entry_pa(hand.master.root, HEAP + (9 << 30), 3)
    hand.memory.set_entry(at, 0xFEE0_0000 | P | W)


@mutation("frame.maps-page-table")
def table_in_the_kernels_image(hand: Hand) -> None:
    code = hand.frame_of(hand.master.root, hand.kernel.gates[14].offset)
    at = hand.entry_pa(hand.master.root, HEAP + (9 << 30), 3)
    hand.memory.set_entry(at, code | P | W)


@mutation(unchecked="kernel-slots")
def root_of_which_the_user_half_is_gone(hand: Hand) -> None:
    """Half freed: nothing is mapped there, and the kernel's half is as it should be."""
    root = hand.processes[-1].root
    for slot in range(256):
        if slot not in hand.kernel.ledger.slots.slots:
            hand.memory.set_entry(root + 8 * slot, 0)


@mutation("shared-table.conflict")
def table_of_512_equal_entries(hand: Hand) -> None:
    """One table of the heap's slot at 512 addresses."""
    directory, table = hand.fresh(), hand.fresh()
    for index in range(512):
        hand.memory.set_entry(directory + 8 * index, table | P | W)
    at = hand.entry_pa(hand.master.root, HEAP + (9 << 30), 3)
    hand.memory.set_entry(at, directory | P | W)


# -- frames -------------------------------------------------------------------------------------


def spare_heap_entry(hand: Hand) -> int:
    """A free entry of a page table of the heap's slot."""
    table = hand.fresh()
    hand.memory.set_entry(hand.entry_pa(hand.master.root, HEAP + (64 << 21), 2), table | P | W)
    return table


@mutation("frame.beyond-ram")
def page_where_there_is_no_ram(hand: Hand) -> None:
    hand.memory.set_entry(spare_heap_entry(hand), BEYOND_RAM | P | W | NX)


@mutation()
def device_above_ram(hand: Hand) -> None:
    """Uncached: a device, however high it lies."""
    hand.memory.set_entry(spare_heap_entry(hand), BEYOND_RAM | P | W | NX | 1 << 4)


@mutation()
def device_below_4_gib(hand: Hand) -> None:
    hand.memory.set_entry(spare_heap_entry(hand), 0xFEE0_0000 | P | W | NX)


@mutation("frame.beyond-ram")
def address_taken_for_a_frame(hand: Hand) -> None:
    """Above everything that can be a device, uncached or not."""
    raw = 0xE_0000_0000_0000 | P | W | NX | 1 << 4
    hand.memory.set_entry(spare_heap_entry(hand), raw)


@mutation("frame.maps-page-table", captures=SEED)
def ring_3_can_write_its_page_table(hand: Hand) -> None:
    space = hand.processes[1]
    at = hand.entry_pa(space.root, hand.free_user_va(space), 1)
    hand.memory.set_entry(at, at & ~0xFFF | P | W | U | NX)


@mutation("frame.maps-page-table")
def kernel_maps_a_table_outside_its_direct_map(hand: Hand) -> None:
    hand.memory.set_entry(spare_heap_entry(hand), hand.processes[0].root | P | W | NX)


@mutation("frame.mapped-twice", captures=SEED)
def one_process_has_anothers_page(hand: Hand) -> None:
    one, _, frame = hand.user_page()
    two = hand.other(one)
    at = hand.entry_pa(two.root, hand.free_user_va(two), 1)
    hand.memory.set_entry(at, frame | P | W | U | NX)


@mutation(captures=SEED)
def one_process_reads_anothers_page(hand: Hand) -> None:
    one, _, frame = hand.user_page()
    two = hand.other(one)
    at = hand.entry_pa(two.root, hand.free_user_va(two), 1)
    hand.memory.set_entry(at, frame | P | U | NX)


@mutation(captures=SEED)
def copy_on_write(hand: Hand) -> None:
    one, va, frame = hand.user_page()
    two = hand.other(one)
    hand.change(one.root, va, 1, lambda raw: raw & ~W | 1 << 9)
    at = hand.entry_pa(two.root, hand.free_user_va(two), 1)
    hand.memory.set_entry(at, frame | P | U | NX | 1 << 9)


@mutation("frame.mapped-twice", captures=SEED)
def ring_3_can_write_the_heap(hand: Hand) -> None:
    space = hand.processes[1]
    at = hand.entry_pa(space.root, hand.free_user_va(space), 1)
    hand.memory.set_entry(at, hand.frame_of(hand.master.root, HEAP) | P | W | U | NX)


@mutation("frame.mapped-twice")
def kernel_has_a_frame_twice(hand: Hand) -> None:
    frame = hand.frame_of(hand.master.root, HEAP)
    hand.memory.set_entry(spare_heap_entry(hand), frame | P | W | NX)


# -- CR3, messages ------------------------------------------------------------------------------


@mutation(
    "cr3.bootloader", "kernel-stack.unmapped", "ist.unmapped", "kernel-slot.missing",
    "kernel-slot.diverged", captures=SYSCALL,
)  # fmt: skip
def back_on_the_bootloaders_tables(hand: Hand) -> None:
    boot = next(s for s in hand.kernel.spaces if s.role == "boot")
    hand.registers(cr3=boot.root)


@mutation("cr3.unknown", "kernel-slot.diverged", captures=SYSCALL)
def cr3_of_another_kernel(hand: Hand) -> None:
    root, other = hand.fresh(), hand.fresh()
    hand.memory.copy_frame(hand.master.root, root)
    for slot in range(256, 400):
        hand.memory.set_entry(root + 8 * slot, other | P | W)
    hand.registers(cr3=root)


@mutation("cr3.wrong-process", captures=SYSCALL)
def ring_3_in_the_masters_space(hand: Hand) -> None:
    hand.registers(cr3=hand.master.root, cs=0x33, eflags=IF | 2, rip=0x4000_0000)


@mutation("map.already-mapped")
def the_kernel_says_already_mapped(hand: Hand) -> None:
    frame = hand.frame_of(hand.master.root, HEAP)
    said = (
        f"[ERROR] kernel::memory::process_memory: Page {HEAP:#x} already mapped to different "
        f"frame {frame:#x} (wanted 0x1f00000)\n"
    )
    chunks = (*hand.stop.serial.chunks, SerialChunk(0, 1.0, said.encode()))
    hand.stop = hand.stop._replace(serial=SerialText(chunks))


@pytest.mark.parametrize(("mutated", "name"), cases(MUTATIONS))
def test_exactly_the_declared_codes_are_new(mutated: Mutation, name: str) -> None:
    hold(mutated, name)
