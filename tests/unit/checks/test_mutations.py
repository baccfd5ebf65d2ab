"""Invariants of stacks and descriptors, broken one by one in a capture of the real kernel.

Exactly their codes are new. Those of tables, frames and roots are in `test_table_mutations`; what
stands on Rust values is broken on the lab guest (tests/guest).
"""

from __future__ import annotations

import pytest

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.x86.cpu import DescriptorTable
from tests.unit.checks.mutation import (
    ADDRESS,
    FRESH,
    IF,
    NX,
    SYSCALL,
    Hand,
    Mutation,
    P,
    U,
    W,
    cases,
    hold,
    registry,
    saved,
)

DIRECT_MAP = 0x200_0000_0000
MUTATIONS, mutation = registry()


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
    cpu = hand.stop.cpu._replace(gdtr=DescriptorTable(VirtAddr(0x4444_5000_0000), 0x37))
    hand.stop = hand.stop._replace(cpus=(cpu,))


# -- several CPUs -------------------------------------------------------------------------------


def copied(hand: Hand, va: int, size: int) -> VirtAddr:
    """Where a copy of so many bytes of the kernel lies, in a frame of its own."""
    at = VirtAddr(DIRECT_MAP + hand.fresh())
    hand.write(at, hand.kernel.memory_of(hand.master.root).read(va, size))
    return at


def second_cpu(hand: Hand, **registers: int) -> Cpu:
    """A CPU beside the first: in ring 3, interrupts on, with a TSS of its own."""
    first = hand.stop.cpu
    assert first.tr is not None
    inside = {"cs": 0x33, "ss": 0x2B, "rip": 0x4000_0000, "rsp": 0x7FFF_FF00_0000, "eflags": IF | 2}
    root = hand.processes[0].root
    return first._replace(
        index=1,
        registers={**first.registers, **inside, "cr3": root, "gs_base": 0, "k_gs_base": 0}
        | registers,
        tr=first.tr._replace(base=copied(hand, first.tr.base, 104)),
    )


def with_second(hand: Hand, cpu: Cpu) -> None:
    hand.registers(eflags=IF | 2)
    hand.stop = hand.stop._replace(cpus=(*hand.stop.cpus, cpu))


@mutation(captures=SYSCALL)
def a_second_cpu_like_the_first(hand: Hand) -> None:
    with_second(hand, second_cpu(hand))


@mutation("cpu.control-differs", captures=SYSCALL)
def global_pages_are_on_on_one_cpu(hand: Hand) -> None:
    cr4 = hand.stop.cpu.get("cr4")
    assert cr4 is not None
    with_second(hand, second_cpu(hand, cr4=cr4 ^ 1 << 7))


@mutation("tss.shared", captures=SYSCALL)
def one_tss_for_two_cpus(hand: Hand) -> None:
    with_second(hand, second_cpu(hand)._replace(tr=hand.stop.cpu.tr))


@mutation("idt.differs", captures=SYSCALL)
def another_idt_on_one_cpu(hand: Hand) -> None:
    """A copy of the first one's, with another handler of #BP."""
    first = hand.stop.cpu.idtr
    assert first is not None
    own = copied(hand, first.base, 0x1000)
    hand.write(own + 3 * 16, hand.kernel.gates[6].offset.to_bytes(8, "little")[:2])
    with_second(hand, second_cpu(hand)._replace(idtr=first._replace(base=own)))


@pytest.mark.parametrize(("mutated", "name"), cases(MUTATIONS))
def test_exactly_the_declared_codes_are_new(mutated: Mutation, name: str) -> None:
    hold(mutated, name)


def test_evidence_names_the_entry_that_was_broken() -> None:
    hand = Hand(saved("breenix-seed-syscall"))
    va = middle(hand)
    at = hand.entry_pa(hand.master.root, va, 1)
    raw = hand.memory.entry(at) & ~W
    hand.memory.set_entry(at, raw)
    (found,) = hand.new_findings("breenix-seed-syscall")
    assert (found.where.entry_pa, found.where.entry, found.where.level) == (PhysAddr(at), raw, 1)
    assert found.where.va == va and found.subject == hand.kernel.stacks[3].name
