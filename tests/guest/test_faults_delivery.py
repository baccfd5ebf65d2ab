"""Deliveries played forward against the CPU itself: one instruction of a changed guest, and every
delivery that QEMU's log has must be in the course that was predicted, in order, before it ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from breenix_gdbagent.checks.faults import check
from breenix_gdbagent.cpumodel.context import RFLAGS_AC, context_of_cpu
from breenix_gdbagent.cpumodel.delivery import Course, handler_fault, run
from breenix_gdbagent.cpumodel.prediction import predict
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.cpu import CR4_SMAP, EFER_NXE
from breenix_gdbagent.x86.exceptions import PF_PRESENT, PF_RESERVED
from breenix_gdbagent.x86.paging import Tables
from tests.guest.faultbench import IF, Bench, bench
from tests.guest.live_support import needs_qemu
from tests.said import evidence

pytestmark = needs_qemu

NOWHERE = 0x4444_5000_0008
HEAP = 0x4444_4444_0000
NON_CANONICAL = 0x8000_0000_0000_0000

INT_0x80 = bytes.fromhex("cd80")
INT_14 = bytes.fromhex("cd0e")
READ_RAX = bytes.fromhex("8a00")  # mov al, [rax]
WRITE_RAX = bytes.fromhex("8800")  # mov [rax], al
PUSH_RAX = bytes.fromhex("50")
UD2 = bytes.fromhex("0f0b")
HLT = bytes.fromhex("f4")
CLI = bytes.fromhex("fa")
IN = bytes.fromhex("ec")
DIV_RCX = bytes.fromhex("48f7f1")
IRETQ = bytes.fromhex("48cf")
MOV_DS_AX = bytes.fromhex("8ed8")
MOV_SS_AX = bytes.fromhex("8ed0")
MOVAPS_RAX = bytes.fromhex("0f2800")  # movaps xmm0, [rax]
FWAIT = bytes.fromhex("9b")
JMP_RAX = bytes.fromhex("ffe0")
MOV_CR3_RAX = bytes.fromhex("0f22d8")
CMPXCHG16B_RAX = bytes.fromhex("480fc708")
ADD_RAX = bytes.fromhex("480118")  # add [rax], rbx
LTR_AX = bytes.fromhex("0f00d8")
REP_STOSQ = bytes.fromhex("f348ab")

RSP0 = 4  # in the TSS
ACCESSED, BUSY = 1, 2  # in a descriptor's type
CR0_MP, CR0_TS, CR4_OSFXSR = 1 << 1, 1 << 3, 1 << 9


def absent(gate: bytearray) -> None:
    gate[5] &= 0x7F


def zero(gate: bytearray) -> None:
    gate[:] = bytes(16)


def ist(number: int) -> Callable[[bytearray], None]:
    def change(gate: bytearray) -> None:
        gate[4] = number

    return change


def selector(value: int) -> Callable[[bytearray], None]:
    def change(gate: bytearray) -> None:
        gate[2:4] = value.to_bytes(2, "little")

    return change


def handler(va: int) -> Callable[[bytearray], None]:
    def change(gate: bytearray) -> None:
        gate[0:2] = (va & 0xFFFF).to_bytes(2, "little")
        gate[6:8] = (va >> 16 & 0xFFFF).to_bytes(2, "little")
        gate[8:12] = (va >> 32).to_bytes(4, "little")

    return change


def top(b: Bench, name: str) -> int:
    tss = b.kernel.tss[0]
    return {"RSP0": tss.rsp0, "IST1": tss.ist[0], "IST2": tss.ist[1]}[name]


def unmap(*names: str) -> Callable[[Bench], None]:
    """The top page of each of these stacks is gone in this space."""

    def change(b: Bench) -> None:
        for name in names:
            b.clear(top(b, name) - 8)

    return change


def gates(**changes: Callable[[bytearray], None]) -> Callable[[Bench], None]:
    def change(b: Bench) -> None:
        for name, one in changes.items():
            b.gate(int(name.removeprefix("v")), one)

    return change


def regs(**values: int) -> Callable[[Bench], None]:
    return lambda b: b.set(**values)


def tss(offset: int, value: int) -> Callable[[Bench], None]:
    return lambda b: b.tss(offset, value)


def bitmap_at(offset: int) -> Callable[[Bench], None]:
    """The I/O bitmap within the 104 bytes of the TSS itself (its offset are the last two)."""
    return tss(0x60, offset << 48)


def stack(*words: int) -> Callable[[Bench], None]:
    """RSP names these words."""

    def change(b: Bench) -> None:
        at = b.cpu.rsp - 0x100
        b.write(at, b"".join((w & (1 << 64) - 1).to_bytes(8, "little") for w in words))
        b.set(rsp=at)

    return change


def read_only(name: str) -> Callable[[Bench], None]:
    return lambda b: b.clear(top(b, name) - 8, 2)


def table_gone(what: str) -> Callable[[Bench], None]:
    def change(b: Bench) -> None:
        place = {"GDT": b.cpu.gdtr, "IDT": b.cpu.idtr, "TSS": b.cpu.tr}[what]
        assert place is not None
        b.clear(place.base)

    return change


def kept_read_only(selector: int, bit: int) -> Callable[[Bench], None]:
    """The descriptor lacks a bit that the CPU sets when it is loaded, and the GDT has no W."""

    def change(b: Bench) -> None:
        gdt = b.cpu.gdtr
        assert gdt is not None
        at = b.pa(gdt.base + (selector & ~7) + 5)
        (kind,) = b.kernel.stop.memory.read(at, 1)  # type: ignore[arg-type]
        b.poke(at, bytes([kind & ~bit]))
        b.clear(gdt.base, 2)

    return change


def without_nxe(b: Bench) -> None:
    b.set(efer=b.cpu.registers["efer"] & ~EFER_NXE)


def rsp_at(edge: str) -> Callable[[Bench], None]:
    """RSP at an edge of the current thread's kernel stack: ``bottom`` or inside the guard."""

    def change(b: Bench) -> None:
        held = b.kernel.stack_at(top(b, "RSP0"))
        assert held is not None
        b.set(rsp=held.bottom + {"bottom": 0x10, "guard": -0x100}[edge])

    return change


def crossing(b: Bench) -> None:
    """RSP0 two words above a page border, the page below it gone: the third push fails."""
    held = b.kernel.stack_at(top(b, "RSP0"))
    assert held is not None
    border = held.top - 0x1000
    b.clear(border - 8)
    b.tss(RSP0, border + 0x10)


def misaligned(b: Bench) -> None:
    b.set(rax=b.cpu.rsp & ~0xF | 4)


def no_device(b: Bench) -> None:
    b.set(cr0=b.cpu.registers["cr0"] | CR0_TS | CR0_MP)


def sse_off(b: Bench) -> None:
    b.set(rax=b.cpu.rsp & ~0xF, cr4=b.cpu.registers["cr4"] & ~CR4_OSFXSR)


def smap(b: Bench) -> None:
    b.set(cr4=b.cpu.registers["cr4"] | CR4_SMAP)


def ac(b: Bench) -> None:
    b.set(eflags=b.cpu.registers["eflags"] & ~IF | RFLAGS_AC)


@dataclass(frozen=True)
class Case:
    """One instruction in one ring after these changes."""

    name: str
    ring: int
    code: bytes
    changes: tuple[Callable[[Bench], None], ...] = ()
    codes: str = ""
    cpu: str = "qemu64"
    ac_counts: bool = False  # TCG lets RFLAGS.AC count for the CPU's own accesses


CASES = (
    Case("int80-stack", 3, INT_0x80, (unmap("RSP0"),), "page-fault.unmapped kernel-stack.unmapped"),
    Case("int80-stack-no-ist", 3, INT_0x80, (unmap("RSP0"), gates(v14=ist(0))),
         "double-fault kernel-stack.unmapped"),
    Case("int80-read-only-stack", 3, INT_0x80, (read_only("RSP0"),),
         "page-fault.write-protected kernel-stack.read-only"),
    Case("int80-crossing", 3, INT_0x80, (crossing,), "page-fault.unmapped tss.rsp0-invalid"),
    Case("int80-rsp0-nowhere", 3, INT_0x80, (tss(RSP0, NOWHERE & ~0xF),),
         "page-fault.unmapped tss.rsp0-invalid"),
    # #SS needs RSP0 as well: only the double fault has a stack of its own.
    Case("int80-rsp0-non-canonical", 3, INT_0x80, (tss(RSP0, NON_CANONICAL),),
         "double-fault tss.rsp0-invalid"),
    Case("int80-rsp0-non-canonical-ist", 3, INT_0x80,
         (tss(RSP0, NON_CANONICAL), gates(v12=ist(2), v13=ist(2))),
         "general-protection tss.rsp0-invalid"),
    Case("int80-rsp0-unaligned", 3, INT_0x80, (tss(RSP0, NOWHERE),),
         "page-fault.unmapped tss.rsp0-invalid"),
    Case("int80-no-dpl", 3, INT_14, (), "general-protection"),
    Case("read", 3, READ_RAX, (regs(rax=NOWHERE),), "page-fault.unmapped"),
    Case("read-null", 3, READ_RAX, (regs(rax=0x10),), "page-fault.null"),
    Case("read-kernel", 3, READ_RAX, (regs(rax=0xFFFFC90000001000),), "page-fault.supervisor-only"),
    Case("write-code", 3, WRITE_RAX, (regs(rax=0x40000000),), "page-fault.write-protected"),
    Case("update-code", 3, ADD_RAX, (regs(rax=0x40000000),), "page-fault.write-protected"),
    Case("update-nowhere", 3, ADD_RAX, (regs(rax=NOWHERE),), "page-fault.unmapped"),
    Case("store-string", 3, REP_STOSQ, (regs(rdi=NOWHERE, rcx=5),), "page-fault.unmapped"),
    Case("read-no-ist2", 3, READ_RAX, (regs(rax=NOWHERE), unmap("IST2")),
         "double-fault page-fault.unmapped ist.unmapped"),
    Case("read-no-ist", 3, READ_RAX, (regs(rax=NOWHERE), unmap("IST2"), unmap("IST1")),
         "triple-fault page-fault.unmapped ist.unmapped"),
    Case("read-no-gate", 3, READ_RAX, (regs(rax=NOWHERE), gates(v14=absent)),
         "double-fault page-fault.unmapped idt.gate-missing"),
    Case("read-no-gates", 3, READ_RAX, (regs(rax=NOWHERE), gates(v14=absent, v8=absent)),
         "triple-fault page-fault.unmapped idt.gate-missing"),
    Case("non-canonical", 3, READ_RAX, (regs(rax=NON_CANONICAL),), "page-fault.non-canonical"),
    Case("jump-non-canonical", 0, JMP_RAX, (regs(rax=NON_CANONICAL),), "page-fault.non-canonical"),
    Case("hlt", 3, HLT, (), "general-protection"),
    Case("cli", 3, CLI, (), "general-protection"),
    Case("in", 3, IN, (regs(rdx=0x64),), "general-protection"),
    Case("in-bitmap-forbids", 3, IN, (regs(rdx=0x64), bitmap_at(0x10), tss(0x1C, 0x10)),
         "general-protection"),
    Case("mov-cr3", 3, MOV_CR3_RAX, (), "general-protection"),
    Case("gp-no-gate", 3, HLT, (gates(v13=absent),),
         "double-fault general-protection idt.gate-missing"),
    Case("ud2", 3, UD2, (), "invalid-opcode"),
    Case("ud2-no-gate", 3, UD2, (gates(v6=absent),),
         "double-fault invalid-opcode idt.gate-missing"),
    Case("ud2-zero-gate", 3, UD2, (gates(v6=zero),), "invalid-opcode idt.gate-missing"),
    Case("ud2-null-selector", 3, UD2, (gates(v6=selector(0)),),
         "invalid-opcode idt.handler-unmapped"),
    Case("ud2-far-selector", 3, UD2, (gates(v6=selector(0x100)),), "invalid-opcode gdt.unmapped"),
    Case("ud2-data-selector", 3, UD2, (gates(v6=selector(0x10)),),
         "invalid-opcode idt.handler-unmapped"),
    Case("ud2-user-selector", 0, UD2, (gates(v6=selector(0x33)),),
         "invalid-opcode idt.handler-unmapped"),
    Case("ud2-no-stack", 3, UD2, (unmap("RSP0"),),
         "page-fault.unmapped kernel-stack.unmapped invalid-opcode"),
    Case("ud2-in-guard", 0, UD2, (rsp_at("guard"),), "page-fault.guard-page invalid-opcode"),
    Case("ud2-at-bottom", 0, UD2, (rsp_at("bottom"),), "page-fault.guard-page invalid-opcode"),
    Case("push-at-guard", 0, PUSH_RAX, (rsp_at("guard"),), "page-fault.guard-page"),
    Case("push-at-guard-no-ist", 0, PUSH_RAX, (rsp_at("guard"), gates(v14=ist(0))),
         "double-fault page-fault.guard-page"),
    Case("divide", 0, DIV_RCX, (regs(rcx=0),), "divide-error"),
    Case("divide-overflow", 0, DIV_RCX, (regs(rcx=1, rdx=2),), "divide-error"),
    Case("divide-in-guard", 0, DIV_RCX, (regs(rcx=0), rsp_at("guard")),
         "page-fault.guard-page divide-error"),
    Case("divide-no-gate", 0, DIV_RCX, (regs(rcx=0), gates(v0=absent)),
         "double-fault divide-error idt.gate-missing"),
    Case("gdt-gone", 3, UD2, (table_gone("GDT"),), "triple-fault gdt.unmapped invalid-opcode"),
    Case("idt-gone", 3, UD2, (table_gone("IDT"),),
         "triple-fault idt.handler-unmapped invalid-opcode"),
    Case("mov-ds-gdt-gone", 0, MOV_DS_AX, (regs(rax=0x10), table_gone("GDT")),
         "triple-fault gdt.unmapped"),
    Case("mov-ds-accessed", 0, MOV_DS_AX, (regs(rax=0x10), kept_read_only(0x10, ACCESSED)),
         "page-fault.write-protected"),
    Case("mov-ds-accessed-ring-3", 3, MOV_DS_AX, (regs(rax=0x2B), kept_read_only(0x2B, ACCESSED)),
         "page-fault.write-protected"),
    Case("mov-ss-accessed-no-gates", 0, MOV_SS_AX,
         (regs(rax=0x10), kept_read_only(0x10, ACCESSED), gates(v14=absent, v8=absent)),
         "triple-fault page-fault.write-protected idt.gate-missing"),
    Case("ltr-busy", 0, LTR_AX, (regs(rax=0x18), kept_read_only(0x18, BUSY)),
         "page-fault.write-protected"),
    Case("nx-without-nxe", 0, READ_RAX, (regs(rax=HEAP), without_nxe),
         "triple-fault page-fault.reserved-bit"),
    Case("iretq-null-cs", 0, IRETQ, (stack(0x40000000, 0, 2, 0, 0),), "general-protection"),
    Case("iretq-far-cs", 0, IRETQ, (stack(0x40000000, 0x50, 2, 0, 0),), "general-protection"),
    Case("iretq-data-cs", 0, IRETQ, (stack(0x40000000, 0x2B, 2, 0, 0x2B),), "general-protection"),
    Case("iretq-bad-rpl", 0, IRETQ, (stack(0x40000000, 0x30, 2, 0, 0x2B),), "general-protection"),
    Case("iretq-null-ss", 0, IRETQ, (stack(0x40000000, 0x33, 2, 0, 0),), "general-protection"),
    Case("iretq-bad-ss", 0, IRETQ, (stack(0x40000000, 0x33, 2, 0, 0x10),), "general-protection"),
    Case("iretq-code-ss", 0, IRETQ, (stack(0x40000000, 0x33, 2, 0, 0x33),), "general-protection"),
    Case("mov-ds-far", 0, MOV_DS_AX, (regs(rax=0x100),), "general-protection"),
    Case("mov-ds-tss", 0, MOV_DS_AX, (regs(rax=0x18),), "general-protection"),
    Case("mov-ss-user", 0, MOV_SS_AX, (regs(rax=0x2B),), "general-protection"),
    Case("misaligned", 0, MOVAPS_RAX, (misaligned,), "general-protection"),
    Case("cmpxchg16b-misaligned", 0, CMPXCHG16B_RAX, (misaligned,), "general-protection"),
    Case("no-device", 0, FWAIT, (no_device,),
         "double-fault exception.unhandled idt.gate-missing"),
    Case("sse-off", 0, MOVAPS_RAX, (sse_off,), "invalid-opcode"),
    Case("iretq-non-canonical-rip", 0, IRETQ, (stack(NON_CANONICAL, 0x33, 2, 0, 0x2B),),
         "page-fault.non-canonical"),
    Case("push-non-canonical", 0, PUSH_RAX, (regs(rsp=NON_CANONICAL),),
         "double-fault page-fault.non-canonical"),
    Case("smap", 0, READ_RAX, (regs(rax=0x40001000), smap), "page-fault.smap", "max"),
    Case("smap-ac", 0, READ_RAX, (regs(rax=NOWHERE), smap, ac), "page-fault.unmapped", "max"),
    Case("push-onto-user-stack", 0, UD2, (regs(rsp=0x40001800), smap, ac),
         "invalid-opcode", "max", ac_counts=True),
    Case("handler-gone", 3, UD2, (gates(v6=handler(NOWHERE)),),
         "page-fault.unmapped idt.handler-unmapped invalid-opcode"),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_course_is_the_one_that_the_cpu_takes(case: Case, tmp_path: Path) -> None:
    with bench(tmp_path / "int.log", case.ring, case.cpu) as guest:
        for change in case.changes:
            change(guest)
        guest.write(guest.cpu.rip, case.code)
        before = guest.settle()
        course = foreseen(before, case.ac_counts)
        expected = told(course) + after_delivery(before, course)
        stop, did = guest.go()
    assert same(expected, did.deliveries), (expected, did)
    assert (course.end == "shutdown") == did.triple
    found = list(check(Kernel(stop)))
    assert sorted({f.code.name for f in found}) == sorted(case.codes.split())
    assert all(f.confidence == "proved" for f in found)
    assert not {f.cause for f in found} - {None, *case.codes.split()}


def foreseen(stop: Stop, ac_counts: bool) -> Course:
    context = replace(context_of_cpu(Tables(stop.memory), stop.cpu), ac_counts=ac_counts)
    prediction = predict(context)
    assert prediction.raised, prediction
    return run(context, prediction.raised[0])


def after_delivery(stop: Stop, course: Course) -> list[tuple[int, int]]:
    """The fault of fetching the handler, which is no part of the delivery any more."""
    fault = handler_fault(context_of_cpu(Tables(stop.memory), stop.cpu), course.last)
    return [] if fault is None else [(fault.vector, fault.error_code or 0)]


def told(course: Course) -> list[tuple[int, int]]:
    return [(a.event.vector, a.event.error_code or 0) for a in course.attempts]


def same(predicted: list[tuple[int, int]], did: tuple[tuple[int, int], ...]) -> bool:
    """All of what was done, in order, but for three deviations of this emulator, by name: QEMU 7's
    TCG pushes 16 * vector + 2 for a gate that cannot be used (target/i386/tcg/seg_helper.c),
    raises #GP for a non-canonical access to the stack, and leaves P clear with a reserved bit
    (sysemu/excp_helper.c)."""

    def by_qemu_7(vector: int, error: int) -> tuple[int, int]:
        if vector in (11, 13) and error & 7 == 2:
            return vector, (error >> 3) * 16 + 2
        if vector == 14 and error & PF_RESERVED:
            return vector, error & ~PF_PRESENT
        return (13, 0) if (vector, error) == (12, 0) else (vector, error)

    return list(did) in (predicted, [by_qemu_7(*one) for one in predicted])


SPIN = bytes.fromhex("ebfe")  # jmp to itself


@pytest.mark.parametrize("no_ist", [False, True])
def test_an_interrupt_is_the_first_event_where_no_instruction_faults(
    no_ist: bool, tmp_path: Path
) -> None:
    with bench(tmp_path / "int.log", 3) as guest:
        unmap("RSP0")(guest)
        if no_ist:
            guest.gate(14, ist(0))
        guest.write(guest.cpu.rip, SPIN)
        guest.set(eflags=guest.cpu.registers["eflags"] | IF)
        guest.settle()
        stop, did = guest.go()
    assert did.deliveries[0][0] == 32, "the timer"
    (explained, *_) = check(Kernel(stop))
    assert explained.chain[0] == "interrupt 0x20"  # the PIC has it in service
    assert explained.code.name == ("double-fault" if no_ist else "page-fault.unmapped")
    assert (explained.cause, explained.confidence) == ("kernel-stack.unmapped", "proved")


def test_a_jump_to_nowhere_is_a_fetch_that_faults(tmp_path: Path) -> None:
    with bench(tmp_path / "int.log", 0) as guest:
        guest.write(guest.cpu.rip, JMP_RAX)
        guest.set(rax=NOWHERE)
        guest.settle()
        stop, did = guest.go()
    assert did.deliveries == ((14, 0x10),)
    (found,) = check(Kernel(stop))
    assert (found.code.name, found.confidence) == ("page-fault.unmapped", "proved")
    assert evidence(found)["access"] == "fetch" and evidence(found)["cr2"] == hex(NOWHERE)
