"""Defects that Breenix has had, each as the stop it would have given: by name, with its cause."""

from __future__ import annotations

from tests.said import evidence, summary
from tests.unit.checks.faults.stops import found, only
from tests.writers.machine import CODE, IST, STACKS, TEXT, Machine, handler, stack_top

BOTTOM = STACKS + 0x11000 + 0x1000  # of the current thread's stack, slot 1


def test_no_kernel_stack_in_the_process_pml4() -> None:
    """d90ed3bd: int 0x80 in ring 3 became #DF; all stacks are the master's own."""
    m = Machine()
    m.gate(14)
    m.set_entry(m.root + 402 * 8, 0)
    m.code(CODE, "cd80")
    double, stack = found(m.fault(8, CODE, error=0, cr2=stack_top(1) - 8))
    assert double.cause == stack.code.name == "kernel-stack.unmapped"


def test_a_switch_to_a_cr3_without_the_old_stack() -> None:
    """05889549: the first push after mov cr3 faults, and so does every delivery."""
    m = Machine()
    m.gate(14)
    m.set_entry(m.root + 402 * 8, 0)
    m.code(TEXT, "50")
    rsp = stack_top(1) - 0x80
    double, first, *_ = found(m.fault(8, TEXT, ring=0, error=0, rsp=rsp, cr2=rsp - 8))
    assert double.cause == "kernel-stack.unmapped"
    assert (first.code.name, first.where.va) == ("page-fault.unmapped", rsp - 8)


def test_slot_403_aliased_to_402_ends_in_a_triple_fault() -> None:
    """7b6bc74c, 5124c528: the IST stacks' slot names the kernel stacks' table."""
    m = Machine()
    m.set_entry(m.root + 403 * 8, m.entry(m.root + 402 * 8))
    for page in range(4):  # what is at IST + n then is the guard and bottom of slot 0
        m.unmap(STACKS + page * 0x1000, m.master)
    m.code(TEXT, "8a00")
    stop = m.shutdown(TEXT, rax=0x8, cr2=IST + 0x1FF8)
    triple, first, *stacks = found(stop)
    assert (triple.code.name, triple.cause) == ("triple-fault", "ist.unmapped")
    assert first.code.name == "page-fault.null"
    assert {s.code.name for s in stacks} == {"ist.unmapped"}


def test_rsp0_was_never_set() -> None:
    """3e763f99: the TSS still has 0."""
    m = Machine()
    m.tss(rsp0=0)
    m.code(CODE, "cd80")
    event, tss = found(m.fault(14, CODE, error=2, cr2=(1 << 64) - 8))
    assert (event.code.name, event.cause, tss.code.name) == (
        "page-fault.unmapped", "tss.rsp0-invalid", "tss.rsp0-invalid",
    )  # fmt: skip


def test_idle_on_the_bootloaders_tables() -> None:
    """c0d51521: after the last process has exited, with every success marker printed."""
    m = Machine()
    m.root = m.boot_root()
    m.code(TEXT, "c3")
    rsp = stack_top(0) - 0x40
    triple = found(m.shutdown(TEXT, rsp=rsp, cr2=IST + 0x1FF8))[0]
    assert (triple.code.name, triple.cause) == ("triple-fault", "cr3.bootloader")


def test_idle_runs_below_the_emergency_stack() -> None:
    """8a7ecb7e: CR2 0xffffc97ffffffff0, RSP 0xffffc97fffffffe0; 41c68458 took it for PML4[402]."""
    m = Machine()
    m.code(TEXT, "48c744241000000000")  # mov qword [rsp+0x10], 0
    finding = only(
        m.fault(14, TEXT, ring=0, error=2, rsp=0xFFFFC97FFFFFFFE0, cr2=0xFFFFC97FFFFFFFF0)
    )
    assert finding.code.name == "page-fault.guard-page"
    assert "IST1 (#DF)" in summary(finding)


def test_deep_logging_in_copy_to_user() -> None:
    """3e763f99, 7c6ea457: a call deep down pushes into the guard page."""
    m = Machine()
    m.code(TEXT, "e800000000")
    finding = only(m.fault(14, TEXT, ring=0, error=2, rsp=BOTTOM, cr2=BOTTOM - 8))
    assert finding.code.name == "page-fault.guard-page"
    assert "the stack is used up" in str(evidence(finding)["explanation"])


def test_a_stray_pointer_into_a_guard_page_is_no_overflow() -> None:
    m = Machine()
    m.code(TEXT, "8800")
    stray = STACKS + 0x800
    finding = only(m.fault(14, TEXT, ring=0, error=2, cr2=stray, rax=stray))
    assert finding.code.name == "page-fault.guard-page"
    assert "a stray pointer rather than an overflow" in str(evidence(finding)["explanation"])


def test_no_current_thread() -> None:
    """170432da: a field at offset 8 of a null thread."""
    m = Machine()
    m.code(TEXT, "488b4008")
    assert only(m.fault(14, TEXT, ring=0, error=0, cr2=8)).code.name == "page-fault.null"


def test_a_kernel_frame_resumed_in_ring_3() -> None:
    """3a4b33a8: error code 0x15, RIP in the kernel's text, CS 0x33."""
    m = Machine()
    finding = only(m.fault(14, TEXT + 0x30, error=0x15, cr2=TEXT + 0x30))
    assert finding.code.name == "page-fault.supervisor-only"
    assert "ring_mismatch" in evidence(finding)


def test_ring_0_at_an_address_of_a_process() -> None:
    m = Machine()
    m.code(CODE, "0f0b")
    finding = only(m.fault(6, CODE, ring=0))
    assert "memory of a process" in str(evidence(finding)["ring_mismatch"])


def test_ring_3_entered_with_the_masters_cr3() -> None:
    """79c4818a: error code 0x14, CR2 == RIP == the ELF's entry, which only the process maps."""
    m = Machine()
    m.root = m.master
    finding = only(m.fault(14, CODE, error=0x14, cr2=CODE))
    assert finding.code.name == "page-fault.unmapped"
    assert evidence(finding)["mapped_in"] == ["init (pid 1)", "shell (pid 2)"]


def test_the_page_fault_handler_panics_by_itself() -> None:
    """fb9ee877: ud2 in the handler, which stands on the IST stack of the first fault."""
    m = Machine()
    m.gate(6, ist=1)
    m.code(handler(14) & ~0xFFF | 0x800, "0f0b")
    rip = handler(14) & ~0xFFF | 0x800
    finding = only(m.fault(6, rip, ring=0, rsp=IST + 0x3E00, stack=IST + 0x2000))
    assert finding.code.name == "invalid-opcode"
