"""Each invariant broken by itself in a capture of the real kernel: exactly its codes are new.

The codes that stand on Rust values are broken on the lab guest (tests/guest).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.stop import SerialChunk, SerialText
from breenix_gdbagent.x86.cpu import DescriptorTable
from tests.unit.captures import BREENIX
from tests.unit.checks.mutation import (
    ADDRESS,
    BEYOND_RAM,
    FRESH,
    HEAP,
    IF,
    NX,
    Hand,
    Mutation,
    P,
    U,
    W,
)

SEED = ("breenix-seed-syscall", "breenix-first-gp")
SYSCALL = ("breenix-seed-syscall",)
STACKS, IST = 402, 403
DIRECT_MAP = 0x200_0000_0000
MUTATIONS: list[Mutation] = []
Breaks = Callable[[Hand], None]


def mutation(
    *codes: str, captures: tuple[str, ...] = BREENIX, unchecked: str = ""
) -> Callable[[Breaks], Breaks]:
    """Enters a function that breaks a stop, with the codes that are due; without any, with the
    check that says what it left out."""

    def enter(breaks: Breaks) -> Breaks:
        name = breaks.__name__.replace("_", "-")
        MUTATIONS.append(Mutation(name, breaks, frozenset(codes), captures, unchecked))
        return breaks

    return enter


def middle(hand: Hand, number: int = 3) -> int:
    """A page in the middle of a stack that no CPU stands on."""
    stack = hand.kernel.stacks[number]
    return stack.bottom + stack.size // 2 & ~0xFFF


# -- kernel stacks ------------------------------------------------------------------------------


@mutation("kernel-stack.unmapped", "kernel-slot.diverged")
def stack_missing_in_one_process(hand: Hand) -> None:
    root = hand.processes[1].root
    hand.privatise(root, middle(hand))
    hand.change(root, middle(hand), 1, lambda raw: 0)


@mutation("kernel-stack.unmapped")
def stack_page_missing_everywhere(hand: Hand) -> None:
    hand.change(hand.master.root, middle(hand), 1, lambda raw: raw & ~P)


@mutation("kernel-stack.read-only")
def stack_page_read_only(hand: Hand) -> None:
    hand.change(hand.master.root, middle(hand), 1, lambda raw: raw & ~W)


@mutation("kernel-stack.read-only", "kernel-slot.read-only")
def stack_slot_read_only_in_one_process(hand: Hand) -> None:
    hand.change(hand.processes[1].root, middle(hand), 4, lambda raw: raw & ~W)


@mutation("kernel-stack.user-accessible", "kernel-slot.user-accessible")
def stack_open_to_ring_3(hand: Hand) -> None:
    va = middle(hand)
    for space in (hand.master, *hand.processes):
        hand.change(space.root, va, 4, lambda raw: raw | U)
    for level in (3, 2, 1):
        hand.change(hand.master.root, va, level, lambda raw: raw | U)


@mutation("kernel-stack.differs", "kernel-slot.diverged")
def stack_is_another_frame_in_one_process(hand: Hand) -> None:
    root, other = hand.processes[1].root, hand.fresh()
    hand.privatise(root, middle(hand))
    hand.change(root, middle(hand), 1, lambda raw: raw & ~ADDRESS | other)


@mutation("kernel-stack.aliased")
def two_stacks_on_one_frame(hand: Hand) -> None:
    frame = hand.frame_of(hand.master.root, middle(hand, 3))
    hand.change(hand.master.root, middle(hand, 4), 1, lambda raw: raw & ~ADDRESS | frame)


@mutation("kernel-stack.guard-mapped")
def guard_page_mapped(hand: Hand) -> None:
    guard = hand.kernel.stacks[3].guard
    assert guard is not None
    frame = hand.fresh()
    hand.change(hand.master.root, guard, 1, lambda raw: frame | P | W | NX)


@mutation("kernel-stack.executable")
def stack_page_executable(hand: Hand) -> None:
    hand.change(hand.master.root, middle(hand), 1, lambda raw: raw & ~NX)


@mutation("ist.unmapped")
def ist_page_missing(hand: Hand) -> None:
    hand.change(hand.master.root, hand.kernel.ist[0].bottom, 1, lambda raw: 0)


@mutation("ist.unmapped", "kernel-slot.missing")
def ist_slot_missing_in_one_process(hand: Hand) -> None:
    hand.change(hand.processes[1].root, hand.kernel.ist[0].bottom, 4, lambda raw: 0)


@mutation("ist.shared")
def ist_entries_name_one_stack(hand: Hand) -> None:
    tr = hand.stop.cpu.tr
    assert tr is not None
    hand.write(tr.base + 36 + 8, hand.kernel.ist[0].top.to_bytes(8, "little"))


def set_ist1(hand: Hand, top: int) -> None:
    tr = hand.stop.cpu.tr
    assert tr is not None
    hand.write(tr.base + 36, top.to_bytes(8, "little"))


@mutation("kernel-stack.aliased")
def ist_stack_in_the_stack_of_a_thread(hand: Hand) -> None:
    set_ist1(hand, hand.kernel.stacks[3].top)


@mutation()
def ist_stack_that_is_a_static_array(hand: Hand) -> None:
    """As kernels have it that keep it in their image."""
    set_ist1(hand, hand.kernel.percpus[0].base & ~0xFFF)


@mutation()
def ist_stack_in_a_large_page(hand: Hand) -> None:
    set_ist1(hand, DIRECT_MAP + FRESH + 0x1000)


@mutation("ist.unmapped")
def ist_stack_nowhere(hand: Hand) -> None:
    set_ist1(hand, 0x4444_6000_0000)


@mutation("kernel-stack.overflow", captures=SYSCALL)
def rsp_below_its_stack(hand: Hand) -> None:
    stack = hand.kernel.stacks[4]
    assert stack.guard is not None
    hand.registers(rsp=stack.guard + 0x800)


@mutation("kernel-stack.foreign", captures=SYSCALL)
def rsp_on_another_stack(hand: Hand) -> None:
    hand.registers(rsp=middle(hand, 2), eflags=IF | 2)


@mutation("kernel-stack.foreign", captures=SYSCALL)
def rsp_on_an_ist_stack_with_interrupts_on(hand: Hand) -> None:
    hand.registers(rsp=hand.kernel.ist[0].top - 64, eflags=IF | 2)


@mutation(captures=SYSCALL)
def rsp_on_another_stack_while_interrupts_are_off(hand: Hand) -> None:
    """May be the window of a switch: nothing is said."""
    hand.registers(rsp=middle(hand, 2))


@mutation(captures=SYSCALL)
def rsp_at_the_exclusive_top(hand: Hand) -> None:
    """An empty stack: its top lies in the guard page of the next."""
    hand.registers(rsp=hand.kernel.stacks[4].top)


@mutation("kernel-stack.nearly-full", captures=SYSCALL)
def rsp_near_the_bottom(hand: Hand) -> None:
    hand.registers(rsp=hand.kernel.stacks[4].bottom + 0x100)


@mutation("kernel-stack.nearly-full")
def traces_near_the_bottom(hand: Hand) -> None:
    stack = hand.kernel.stacks[3]
    frame = hand.frame_of(hand.master.root, stack.bottom)
    hand.memory.frame(frame, fresh=True)
    hand.memory.write(frame + 0x240, (stack.bottom + 0x300).to_bytes(8, "little"))


@mutation()
def garbage_near_the_bottom(hand: Hand) -> None:
    """A frame that was something else before: no word of the stack's own."""
    stack = hand.kernel.stacks[3]
    frame = hand.frame_of(hand.master.root, stack.bottom)
    hand.memory.frame(frame, fresh=True)[:] = bytes(range(256)) * 16


@mutation(unchecked="kernel-stacks")
def a_stack_that_is_being_mapped(hand: Hand) -> None:
    """The allocator maps upwards: a slot of which the lower half is there is no defect."""
    era = hand.kernel.era
    assert era is not None
    last = max(int(s.name.split()[1]) for s in hand.kernel.stacks)
    bottom = hand.kernel.stacks[0].bottom + (last + 1) * era.slot_size
    for page in range(bottom, bottom + 8 * 0x1000, 0x1000):
        frame = hand.fresh()
        for level in (2, 1):
            at = hand.entry_pa(hand.master.root, page, level)
            if not hand.memory.entry(at):
                table = hand.fresh()
                hand.memory.set_entry(at, (table | P | W) if level == 2 else frame | P | W | NX)


# -- TSS, IDT, GDT ------------------------------------------------------------------------------


def set_rsp0(hand: Hand, value: int) -> None:
    tr = hand.stop.cpu.tr
    assert tr is not None
    hand.write(tr.base + 4, value.to_bytes(8, "little"))


@mutation("tss.rsp0-invalid")
def rsp0_leads_nowhere(hand: Hand) -> None:
    set_rsp0(hand, 0x4444_5000_0000)


@mutation("tss.rsp0-invalid")
def rsp0_in_the_middle_of_a_stack(hand: Hand) -> None:
    set_rsp0(hand, hand.kernel.stacks[1].bottom + 0x3000)


@mutation("tss.rsp0-invalid")
def rsp0_of_an_unmapped_slot(hand: Hand) -> None:
    era = hand.kernel.era
    assert era is not None
    set_rsp0(hand, hand.kernel.stacks[0].top + (era.stack_slots - 2) * era.slot_size)


@mutation("tss.rsp0-invalid")
def rsp0_never_set(hand: Hand) -> None:
    set_rsp0(hand, 0)


@mutation("tss.rsp0-mismatch", captures=SYSCALL)
def rsp0_of_another_thread(hand: Hand) -> None:
    set_rsp0(hand, hand.kernel.stacks[2].top)
    hand.registers(eflags=IF | 2)


def gate(hand: Hand, vector: int) -> int:
    idtr = hand.stop.cpu.idtr
    assert idtr is not None
    return idtr.base + 16 * vector


@mutation("idt.gate-missing")
def page_fault_gate_missing(hand: Hand) -> None:
    hand.write(gate(hand, 14) + 5, b"\x0e")


@mutation()
def a_gate_that_is_missing_by_design(hand: Hand) -> None:
    """#NM has none on Breenix: nothing is said before it is needed."""
    assert 7 not in hand.kernel.gates
    hand.write(gate(hand, 7) + 5, b"\x0e")


@mutation("idt.handler-unmapped")
def handler_leads_nowhere(hand: Hand) -> None:
    hand.write(gate(hand, 6), (0x5000).to_bytes(2, "little"))
    hand.write(gate(hand, 6) + 6, (0x4444).to_bytes(2, "little"))


@mutation("gdt.unmapped")
def gdtr_leads_nowhere(hand: Hand) -> None:
    cpu = replace(hand.stop.cpu, gdtr=DescriptorTable(VirtAddr(0x4444_5000_0000), 0x37))
    hand.stop = replace(hand.stop, cpus=(cpu,))


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
    hand.stop = replace(hand.stop, serial=SerialText(chunks))


CASES = [
    pytest.param(mutated, name, id=f"{mutated.name}-{name}")
    for mutated in MUTATIONS
    for name in mutated.captures
]


@pytest.mark.parametrize(("mutated", "name"), CASES)
def test_exactly_the_declared_codes_are_new(mutated: Mutation, name: str) -> None:
    from tests.unit.checks.mutation import saved

    hand = Hand(saved(name))
    mutated.breaks(hand)
    found, unchecked = hand.examined(name)
    # A logged error is its own finding, whatever it says.
    new = {f.code.name for f in found} - {"log.error"}
    assert new == mutated.codes, [f"{f.code.name}: {f.summary}" for f in found]
    assert not mutated.unchecked or mutated.unchecked in unchecked


def test_evidence_names_the_entry_that_was_broken() -> None:
    from tests.unit.checks.mutation import saved

    hand = Hand(saved("breenix-seed-syscall"))
    va = middle(hand)
    at = hand.entry_pa(hand.master.root, va, 1)
    raw = hand.memory.entry(at) & ~W
    hand.memory.set_entry(at, raw)
    (found,) = hand.new_findings("breenix-seed-syscall")
    assert (found.where.entry_pa, found.where.entry, found.where.level) == (PhysAddr(at), raw, 1)
    assert found.where.va == va and found.subject == hand.kernel.stacks[3].name
