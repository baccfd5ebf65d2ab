"""Double and triple faults in stops made by hand: the chain, the cause, and what changes them."""

from __future__ import annotations

import pytest

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.x86.cpu import DescriptorTable
from tests.said import evidence, summary
from tests.unit.checks.faults.stops import found, names, only
from tests.writers.machine import CODE, GDT, HEAP, IDT, IST, STACKS, TEXT, Machine, stack_top
from tests.writers.tables import P, W

NOWHERE = 0x5000_0000
READ, INT_0x80, UD2 = "8a00", "cd80", "0f0b"
DF_TOP, PF_TOP = IST + 0x2000, IST + 0x4000


def without_stack(m: Machine) -> None:
    """CR3's space alone lacks the kernel stacks."""
    m.set_entry(m.root + 402 * 8, 0)


def test_int_0x80_without_the_kernel_stack() -> None:
    """DIRECT_EXECUTION_FIX.md, d90ed3bd: the frame is of ring 3, CR2 of the push."""
    m = Machine()
    m.gate(14)  # no IST for #PF: as the kernel of May 2025 had it
    without_stack(m)
    m.code(CODE, INT_0x80)
    push = stack_top(1) - 8
    double, defect = found(m.fault(8, CODE, error=0, cr2=push))
    assert double.chain == (
        "int 0x80", f"#PF e=0x2 CR2={push:#x}", f"#PF e=0x2 CR2={push:#x}", "#DF e=0x0",
    )  # fmt: skip
    assert (double.code.name, double.cause) == ("double-fault", "kernel-stack.unmapped")
    assert (double.confidence, defect.code.name) == ("proved", "kernel-stack.unmapped")
    assert "not the address of the first fault" in str(evidence(double)["cr2_is"])


def test_a_page_fault_whose_stack_is_gone() -> None:
    m = Machine()
    m.unmap(PF_TOP - 8)
    m.code(TEXT, READ)
    stop = m.fault(8, TEXT, ring=0, error=0, cr2=PF_TOP - 8, rax=NOWHERE)
    double, first, defect = found(stop)
    assert (double.code.name, double.cause) == ("double-fault", "ist.unmapped")
    assert (first.code.name, first.where.va) == ("page-fault.unmapped", NOWHERE)
    assert (defect.code.name, defect.subject) == ("ist.unmapped", "IST2 (#PF)")


def test_both_stacks_gone_is_a_triple_fault() -> None:
    m = Machine()
    m.unmap(PF_TOP - 8)
    m.unmap(DF_TOP - 8)
    m.code(TEXT, READ)
    stop = m.shutdown(TEXT, cr2=DF_TOP - 8, rax=NOWHERE)
    triple, first, *defects = found(stop)
    assert (triple.code.name, triple.cause) == ("triple-fault", "ist.unmapped")
    assert first.code.name == "page-fault.unmapped"
    assert [d.subject for d in defects] == ["IST2 (#PF)", "IST1 (#DF)"]
    assert triple.chain[-1] == "triple fault" and len(triple.chain) == 5


def test_an_exception_without_gates() -> None:
    m = Machine()
    m.code(TEXT, "9b")
    m.registers |= {"cr0": m.registers["cr0"] | 0x20, "fstat": 0x80}
    double, first, *defects = found(m.fault(8, TEXT, ring=0, error=0))
    assert (double.code.name, double.cause) == ("double-fault", "idt.gate-missing")
    assert (first.code.name, first.confidence) == ("exception.unhandled", "proved")
    assert [d.subject for d in defects] == ["#MF", "#NP"]
    assert "stale" in str(evidence(double)["cr2_is"])


def test_mutations_the_pending_exception_is_only_possible_without_the_status_word() -> None:
    m = Machine()
    m.code(TEXT, "9b")
    m.registers |= {"cr0": m.registers["cr0"] | 0x20}
    double = found(m.fault(8, TEXT, ring=0, error=0, rflags=0x2))[0]
    assert (double.code.name, double.confidence) == ("double-fault", "likely")
    assert double.chain[0] == "#MF"


def test_mutations_gates_present_again_leave_no_course() -> None:
    m = Machine()
    for vector in (2, 7, 11, 16):
        m.gate(vector)
    m.code(TEXT, "9b")
    m.registers |= {"cr0": m.registers["cr0"] | 0x20, "fstat": 0x80}
    double = only(m.fault(8, TEXT, ring=0, error=0, rflags=0x2))
    assert (double.cause, double.confidence) == (None, "possible")
    assert "could not be found" in summary(double)


def test_mutations_cr2_of_another_push() -> None:
    m = Machine()
    m.unmap(PF_TOP - 8)
    m.code(TEXT, READ)
    stop = m.fault(8, TEXT, ring=0, error=0, cr2=PF_TOP - 16, rax=NOWHERE, rflags=0x2)
    double = found(stop)[0]
    assert (double.cause, double.confidence) == (None, "possible")


def test_stack_overflow_without_a_stack_for_page_faults() -> None:
    m = Machine()
    m.gate(14)
    bottom = STACKS + 0x11000 + 0x1000
    m.code(TEXT, "50")  # push rax
    double, first = found(m.fault(8, TEXT, ring=0, error=0, rsp=bottom, cr2=bottom - 8))
    assert (double.code.name, double.cause) == ("double-fault", "page-fault.guard-page")
    assert first.code.name == "page-fault.guard-page"


def test_a_context_switch_onto_a_stack_that_is_not_there() -> None:
    """05889549: RSP is in a stack that the new CR3 does not map; the timer interrupts it."""
    m = Machine()
    m.gate(14)
    without_stack(m)
    rsp = stack_top(1) - 0x100
    m.code(TEXT, "90")
    double, defect = found(m.fault(8, TEXT, ring=0, error=0, rsp=rsp, rflags=0x202, cr2=rsp - 8))
    assert (double.cause, double.chain[0]) == ("kernel-stack.unmapped", "interrupt")
    assert (double.confidence, defect.code.name) == ("proved", "kernel-stack.unmapped")


def test_the_bootloaders_tables() -> None:
    """c0d51521: the CR3 of the bootloader has neither kernel stacks nor IST stacks."""
    m = Machine()
    m.root = m.boot_root()
    rsp = stack_top(1) - 0x100
    m.code(TEXT, "50")
    triple, first, *defects = found(m.shutdown(TEXT, rsp=rsp, cr2=DF_TOP - 8))
    assert triple.code.name == "triple-fault"
    assert triple.cause == first.cause == "cr3.bootloader"
    assert first.code.name == "page-fault.unmapped"
    assert {d.code.name for d in defects} == {"ist.unmapped"}


def test_the_idt_is_gone() -> None:
    m = Machine()
    m.code(CODE, UD2)
    stop = m.shutdown(CODE, ring=3, cr2=IDT + 8 * 16)
    pt = m.leaf(IDT)
    stop.memory.frames[pt & ~0xFFF][pt & 0xFFF] = 0  # type: ignore[attr-defined]
    codes = [f.code.name for f in found(stop)]
    assert codes == ["triple-fault", "invalid-opcode", "idt.handler-unmapped"]
    assert found(stop)[0].cause == "invalid-opcode"


def test_garbage_in_idtr_is_a_state_and_no_error() -> None:
    m = Machine()
    m.code(CODE, UD2)
    m.idt_limit = 0
    stop = m.shutdown(CODE, ring=3, cr2=0)
    assert names(stop)[0] == "triple-fault"


def test_a_handler_of_double_faults_that_cannot_run() -> None:
    """#PF's handler is gone and it has no IST: each fetch pushes one more frame, to the guard."""
    m = Machine()
    lost = HEAP + 0x9000
    m.gate(14, lost)
    bottom = STACKS + 0x11000 + 0x1000
    double, *rest = found(m.fault(8, lost, ring=0, error=0, rsp=bottom + 0x10, cr2=bottom - 8))
    assert (double.code.name, double.cause) == ("double-fault", "idt.handler-unmapped")
    assert "idt.handler-unmapped" in {f.code.name for f in rest}


@pytest.mark.parametrize("lacking", ["idtr", "tr", "gdtr"])
def test_without_a_descriptor_register_the_cause_is_not_invented(lacking: str) -> None:

    m = Machine()
    m.unmap(PF_TOP - 8)
    m.code(TEXT, READ)
    stop = m.fault(8, TEXT, ring=0, error=0, cr2=PF_TOP - 8, rax=NOWHERE)
    stop = stop._replace(cpus=(stop.cpu._replace(**{lacking: None}),))
    finding = found(stop)[0]
    assert (finding.cause, finding.confidence) == (None, "possible")


MOV_DS_AX = "8ed8"
GDT_RO_CR2 = GDT + 0x14


def without_accessed_bit(m: Machine) -> None:
    """The data descriptor 0x10 was never loaded, and the GDT is in a read-only page."""
    m.write(GDT + 0x15, b"\x92")
    m.change(GDT, clear=W, root=m.master)


def test_the_cpus_own_write_of_a_descriptor() -> None:
    """A segment register loaded from a read-only GDT (SDM vol. 3, 3.4.5.1), with an IDT that leads
    nowhere."""
    m = Machine()
    without_accessed_bit(m)
    for vector in (8, 14):
        m.gate(vector, present=False)
    m.code(TEXT, MOV_DS_AX)
    triple, first, *gates = found(m.shutdown(TEXT, cr2=GDT_RO_CR2, rax=0x10))
    assert (triple.code.name, triple.cause) == ("triple-fault", "page-fault.write-protected")
    assert (first.code.name, first.cause, first.where.va) == (
        "page-fault.write-protected", None, GDT_RO_CR2,
    )  # fmt: skip
    assert "accessed bit" in summary(first) and "accessed bit" in triple.fix
    assert {g.code.name for g in gates} == {"idt.gate-missing"}


def test_mutations_a_descriptor_that_was_loaded_before_is_not_written() -> None:
    m = Machine()
    m.change(GDT, clear=W, root=m.master)
    m.code(TEXT, MOV_DS_AX)
    assert names(m.shutdown(TEXT, cr2=GDT_RO_CR2, rax=0x10)) == ["reboot"]


def test_any_cpu_is_a_witness() -> None:
    """QEMU names one CPU with its shutdown, and it may be another that could not go on."""
    m = Machine()
    without_accessed_bit(m)
    m.code(TEXT, MOV_DS_AX + "90")
    for vector in (8, 14):
        m.gate(vector, present=False)
    stop = m.shutdown(TEXT + 2)
    dead = m.shutdown(TEXT, cr2=GDT_RO_CR2, rax=0x10).cpu._replace(index=1)
    triple = found(stop._replace(cpus=(stop.cpu, dead)))[0]
    assert (triple.code.name, evidence(triple)["cpu"]) == ("triple-fault", 1)
    assert "on CPU 1" in summary(triple)


def test_a_cpu_that_never_loaded_an_idt() -> None:
    """IDTR as the reset left it: what lies at address 0 is not called a gate."""
    m = Machine()
    m.map(0, P | W)
    m.code(TEXT, READ)
    stop = m.shutdown(TEXT, cr2=NOWHERE, rax=NOWHERE)
    idtr = DescriptorTable(VirtAddr(0), 0xFFFF)
    triple, *rest = found(stop._replace(cpus=(stop.cpu._replace(idtr=idtr),)))
    assert (triple.code.name, triple.cause) == ("triple-fault", "page-fault.unmapped")
    assert "no IDT is loaded on CPU 0" in summary(triple)
    assert [f.code.name for f in rest] == ["page-fault.unmapped", "idt.handler-unmapped"]


OUT_0x64 = "b0fee664"  # mov al, 0xfe; out 0x64, al


def test_a_wanted_reboot() -> None:
    m = Machine()
    m.code(TEXT, OUT_0x64 + "f4ebfd")  # and then hlt; jmp
    reboot = only(m.shutdown(TEXT + 4, rax=0xFE, rflags=0x202))
    assert (reboot.code.name, reboot.confidence) == ("reboot", "proved")
    assert evidence(reboot)["port"] == "0x64"


def test_mutations_another_value_or_port_is_no_reset() -> None:
    m = Machine()
    m.code(TEXT, "b0fee665f4")
    other = only(m.shutdown(TEXT + 4, rax=0xFE))
    assert (other.code.name, other.confidence) == ("reboot", "possible")
    assert "no proof" in str(evidence(other)["explanation"])
    m = Machine()
    m.code(TEXT, OUT_0x64 + "f4")
    assert only(m.shutdown(TEXT + 4, rax=0xAA)).confidence == "possible"


def test_mutations_a_faulting_instruction_after_the_out_is_a_triple_fault() -> None:
    m = Machine()
    m.unmap(PF_TOP - 8)
    m.unmap(DF_TOP - 8)
    m.code(TEXT, OUT_0x64 + READ)
    stop = m.shutdown(TEXT + 4, rax=0xFE, cr2=DF_TOP - 8)
    assert names(stop)[0] == "triple-fault"


def test_shutdown_before_paging_is_not_checked() -> None:
    from breenix_gdbagent.checks.finding import NotChecked

    m = Machine()
    m.registers["cr0"] = 0x11
    with pytest.raises(NotChecked, match="paging"):
        found(m.shutdown(TEXT))


def test_a_stack_in_no_ram_at_all() -> None:
    """RSP0 leads to where no memory answers: the push is lost, and no page fault comes of it."""
    m = Machine()
    m.tables.map(m.master, STACKS + 40 * 0x11000, 0x40_0000_0000)
    m.tss(rsp0=STACKS + 40 * 0x11000 + 0x1000)
    m.code(CODE, UD2)
    stop = m.fault(6, CODE)
    assert found(stop)[0].code.name == "invalid-opcode"
