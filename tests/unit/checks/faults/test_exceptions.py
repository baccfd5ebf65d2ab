"""#GP, #UD, #DE, #SS and the rest in stops made by hand, with the operand that did it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from breenix_gdbagent.x86.cpu import SystemSegment
from tests.said import evidence, summary
from tests.unit.checks.faults.stops import found, names, only
from tests.writers.machine import (
    CODE,
    DATA,
    HEAP,
    IST,
    NX,
    TEXT,
    TSS,
    USER_STACK,
    Machine,
    stack_top,
)
from tests.writers.tables import P, U, W

TOP = stack_top(1) - 0x100
BAD = 0x8000_0000_0000_0000


@dataclass(frozen=True)
class Case:
    """`code` in `ring` with these registers raises `vector` with `error`."""

    name: str
    vector: int
    ring: int
    code: str
    expected: str
    says: str
    error: int = 0
    registers: tuple[tuple[str, int], ...] = ()


def with_(**registers: int) -> tuple[tuple[str, int], ...]:
    return tuple(registers.items())


CASES = (
    Case("hlt", 13, 3, "f4", "general-protection", "is for ring 0"),
    Case("cli", 13, 3, "fa", "general-protection", "IOPL is lower"),
    Case("mov-cr3", 13, 3, "0f22d8", "general-protection", "is for ring 0"),
    Case("wrmsr-ring3", 13, 3, "0f30", "general-protection", "is for ring 0"),
    Case("in", 13, 3, "ec", "general-protection", "IOPL is lower"),
    Case("int-without-dpl", 13, 3, "cd0e", "general-protection", "DPL 3", 14 * 8 + 2),
    Case("non-canonical", 13, 3, "8a00", "page-fault.non-canonical", "not canonical",
         registers=with_(rax=BAD)),
    Case("non-canonical-stack", 12, 3, "8a4500", "page-fault.non-canonical", "not canonical",
         registers=with_(rbp=BAD)),
    Case("non-canonical-stack-tcg", 13, 3, "8a4500", "page-fault.non-canonical", "not canonical",
         registers=with_(rbp=BAD)),
    Case("crosses-canonical", 13, 3, "488b00", "page-fault.non-canonical", "not canonical",
         registers=with_(rax=0x7FFF_FFFF_FFFC)),
    Case("rip-non-canonical", 13, 3, "", "page-fault.non-canonical", "RIP"),
    Case("misaligned", 13, 3, "0f2800", "general-protection", "not aligned to 16",
         registers=with_(rax=DATA + 4)),
    Case("mov-ds", 13, 0, "8ed8", "general-protection", "DS", 0x100, with_(rax=0x100)),
    Case("mov-ds-system", 13, 0, "8ed8", "general-protection", "DS", 0x18, with_(rax=0x18)),
    Case("mov-ss", 13, 0, "8ed0", "general-protection", "SS", 0x28, with_(rax=0x2B)),
    Case("mov-cr0", 13, 0, "0f22c0", "general-protection", "PG without PE",
         registers=with_(rax=1 << 31)),
    Case("wrmsr-lstar", 13, 0, "0f30", "general-protection", "LSTAR",
         registers=with_(rcx=0xC000_0082, rax=0, rdx=0x8000_0000)),
    Case("jmp-non-canonical", 13, 0, "ffe0", "page-fault.non-canonical", "leads to",
         registers=with_(rax=BAD)),
    Case("ud2", 6, 0, "0f0b", "invalid-opcode", "ud2"),
    Case("no-instruction", 6, 3, "06ffffff", "invalid-opcode", "are no instruction"),
    Case("sse-off", 6, 0, "0f28c1", "invalid-opcode", "OSFXSR", registers=with_(cr4=0x4E8)),
    Case("syscall-off", 6, 3, "0f05", "invalid-opcode", "EFER.SCE", registers=with_(efer=0xD00)),
    Case("divide", 0, 0, "48f7f1", "divide-error", "rcx, which is 0"),
    Case("divide-memory", 0, 3, "48f730", "divide-error", "its memory operand, which is 0",
         registers=with_(rax=DATA)),
    Case("divide-overflow", 0, 0, "48f7f1", "divide-error", "does not fit",
         registers=with_(rcx=1, rdx=1)),
    Case("idiv-overflow", 0, 0, "48f7f9", "divide-error", "does not fit",
         registers=with_(rax=1 << 63, rdx=(1 << 64) - 1, rcx=(1 << 64) - 1)),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_code_and_what_it_says(case: Case) -> None:
    m = Machine()
    m.registers.update(case.registers)
    rip = CODE if case.ring == 3 else TEXT
    if case.code:
        m.code(rip, case.code)
    else:
        rip = BAD
    stop = m.fault(case.vector, rip, ring=case.ring, error=case.error)
    finding = only(stop)
    assert (finding.code.name, finding.confidence) == (case.expected, "proved")
    assert case.says in summary(finding) and case.says in str(evidence(finding)["explanation"])
    assert evidence(finding)["vector"] == case.vector or "tcg" in case.name


@pytest.mark.parametrize("code", ["90", "c3", "488bc3"])
def test_mutations_another_instruction_is_not_believed(code: str) -> None:
    """The pushed vector stands; what is there now does not raise it, and that is said."""
    m = Machine()
    m.code(CODE, code)
    finding = found(m.fault(13, CODE, error=0))[0]
    assert (finding.code.name, finding.confidence) == ("general-protection", "possible")


def test_mutations_the_register_is_canonical() -> None:
    m = Machine()
    m.code(CODE, "8a00")
    finding = only(m.fault(13, CODE, error=0, rax=DATA))
    assert (finding.code.name, finding.confidence) == ("general-protection", "possible")


def test_an_msr_that_is_refused_is_likely_only() -> None:
    m = Machine()
    m.code(TEXT, "0f30")
    finding = only(m.fault(13, TEXT, ring=0, error=0, rcx=0x1234))
    assert (finding.code.name, finding.confidence) == ("general-protection", "likely")
    assert "0x1234" in summary(finding)


FRAMES = (
    ("null-cs", (CODE, 0, 0x202, USER_STACK, 0x2B), 0, "null CS"),
    ("far-cs", (CODE, 0x53, 0x202, USER_STACK, 0x2B), 0x50, "beyond the GDT"),
    ("data-cs", (CODE, 0x2B, 0x202, USER_STACK, 0x2B), 0x28, "no code segment"),
    ("ring-0-cs-with-rpl-3", (CODE, 0x0B, 0x202, USER_STACK, 0x2B), 0x8, "RPL 3"),
    ("null-ss", (CODE, 0x33, 0x202, USER_STACK, 0), 0, "null selector"),
    ("kernel-ss", (CODE, 0x33, 0x202, USER_STACK, 0x10), 0x10, "SS"),
    ("rip", (BAD, 0x33, 0x202, USER_STACK, 0x2B), 0, "not canonical"),
)


@pytest.mark.parametrize(("name", "frame", "error", "says"), FRAMES, ids=[f[0] for f in FRAMES])
def test_a_bad_frame_of_iretq(name: str, frame: tuple[int, ...], error: int, says: str) -> None:
    m = Machine()
    m.code(TEXT, "48cf")
    m.write(TOP, b"".join(v.to_bytes(8, "little") for v in frame))
    finding = only(m.fault(13, TEXT, ring=0, error=error, rsp=TOP))
    assert finding.confidence == "proved"
    assert says in summary(finding)
    assert evidence(finding)["error_code"] == hex(error)


def test_a_vector_without_a_gate_arrives_as_not_present() -> None:
    """#NM without gate 7, #NP with one: the first is what matters."""
    m = Machine()
    m.gate(11)
    m.code(TEXT, "9b")  # fwait
    m.registers["cr0"] |= 0xA
    event, defect = found(m.fault(11, TEXT, ring=0, error=7 * 8 + 2))
    assert (event.code.name, event.cause) == ("exception.unhandled", "idt.gate-missing")
    assert event.chain == ("#NM", "#NP e=0x3a")
    assert (defect.code.name, defect.subject) == ("idt.gate-missing", "#NM")
    assert defect.effective_severity == "error"


def test_the_error_code_as_qemu_7_pushes_it_is_named() -> None:
    m = Machine()
    m.gate(11)
    m.code(TEXT, "9b")
    m.registers["cr0"] |= 0xA
    event, _ = found(m.fault(11, TEXT, ring=0, error=7 * 16 + 2))
    assert event.confidence == "proved" and "16 * vector" in str(evidence(event)["deviation"])
    assert event.chain == ("#NM", "#NP e=0x72")
    other = found(m.fault(11, TEXT, ring=0, error=9 * 8 + 2))
    assert other[0].confidence == "possible"


def test_an_interrupt_without_a_gate() -> None:
    m = Machine()
    m.gate(11)
    m.gate(32, present=False)
    m.code(CODE, "ebfe")
    event, defect = found(m.fault(11, CODE, error=32 * 8 + 2))
    assert (event.code.name, event.cause) == ("exception.unhandled", "idt.gate-missing")
    assert defect.code.name == "idt.gate-missing"


def test_a_gate_of_no_type_is_a_general_protection_fault() -> None:
    m = Machine()
    m.gate(6, kind=0, present=False)
    m.code(CODE, "0f0b")
    assert names(m.fault(13, CODE, error=6 * 8 + 2)) == ["invalid-opcode", "idt.gate-missing"]


def test_a_stack_of_the_tss_that_is_not_canonical() -> None:
    m = Machine()
    m.gate(12, ist=1)
    m.tss(rsp0=BAD)
    m.code(CODE, "cd80")
    event, defect = found(m.fault(12, CODE, error=0, stack=IST + 0x2000))
    assert (event.code.name, event.cause) == ("general-protection", "tss.rsp0-invalid")
    assert defect.code.name == "tss.rsp0-invalid"


def test_a_handler_that_cannot_be_fetched_is_told_before_it_faults() -> None:
    m = Machine()
    m.gate(6, HEAP + 0x9000)
    m.code(CODE, "0f0b")
    event, defect = found(m.fault(6, CODE))
    assert (event.code.name, defect.code.name) == ("invalid-opcode", "idt.handler-unmapped")


def test_the_exception_whose_handler_faulted_is_found_in_its_frame() -> None:
    m = Machine()
    lost = HEAP + 0x9000
    m.gate(6, lost)
    m.code(CODE, "0f0b")
    frame = m.at_handler(6, CODE)
    stop = m.fault(14, lost, ring=0, error=0x10, cr2=lost, rsp=frame.rsp)
    assert names(stop) == ["page-fault.unmapped", "idt.handler-unmapped", "invalid-opcode"]
    assert found(stop)[0].cause == "idt.handler-unmapped"


def test_ring_3_in_the_kernel_image_is_said_as_a_hint() -> None:
    m = Machine()
    m.change(TEXT, add=U)
    for shift in (39, 30, 21):
        at = m.root + (TEXT >> 39 & 511) * 8
        if shift == 39:
            m.set_entry(at, m.entry(at) | U)
    m.map(0x6000_0000, P | W | U | NX)
    m.code(TEXT, "f4")
    stop = m.fault(13, TEXT, error=0)
    finding = found(stop)[0]
    assert "ring_mismatch" in evidence(finding)


def test_a_program_that_ran_into_its_text() -> None:
    """Breenix's minimal test ELF, whose exit returned: `insb` is the l of its message."""
    m = Machine()
    m.write(CODE, b"lo from userspace!\n", m.root)
    finding = only(m.fault(13, CODE, error=0))
    assert evidence(finding)["text_at_rip"] == "lo from userspace!"
    assert "ran on into its data" in str(evidence(finding)["explanation"])
    m = Machine()
    m.write(CODE, b"AWAVAUATUSH\x0f\x0b", m.root)
    assert "text_at_rip" not in evidence(only(m.fault(13, CODE, error=0)))


def test_without_a_tss_it_is_said_that_none_is_loaded() -> None:
    """TR is as a reset left it: RSP0 is what happens to lie at address 4."""
    m = Machine()
    m.code(CODE, "0f0b")
    stop = m.shutdown(CODE, ring=3, cr2=0)
    bare = stop.cpus[0]._replace(tr=SystemSegment(0, HEAP, 0xFFFF))  # type: ignore[arg-type]
    for place in (4, 36):  # RSP0, and IST1 of #DF
        m.write(HEAP + place, bytes.fromhex("50ff00f0c3e200f0"))
    triple, *behind = found(m.shutdown(CODE, ring=3, cr2=0)._replace(cpus=(bare,)))
    assert triple.code.name == "triple-fault" and triple.cause == "tss.rsp0-invalid"
    (tss,) = (f for f in behind if f.code.name == "tss.rsp0-invalid")
    assert "no TSS is loaded on CPU 0 (TR is null)" in summary(tss)
    assert "ltr" in tss.fix


@pytest.mark.parametrize(
    ("bits", "raises"), [(0x00, False), (0x10, True), (0x01, False)], ids=["none", "its", "another"]
)
def test_the_io_bitmap_decides_in_ring_3(bits: int, raises: bool) -> None:
    """Port 0x64 is bit 4 of byte 12; the bitmap lies within the TSS."""
    m = Machine()
    m.write(TSS + 0x66, (0x10).to_bytes(2, "little"))
    m.write(TSS + 0x10 + 12, bytes([bits]))
    m.code(CODE, "e464")  # in al, 0x64
    finding = only(m.fault(13, CODE, error=0))
    assert finding.confidence == ("proved" if raises else "possible")
    assert ("bitmap forbids port 0x64" in summary(finding)) is raises
