"""Page faults in stops made by hand: the code, and how it changes with each piece of evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.stop import Stop, StopReason
from tests.said import evidence, summary
from tests.unit.checks.faults.stops import found, only
from tests.writers.machine import (
    CODE,
    DATA,
    GDT,
    HEAP,
    IDT,
    IST,
    NX,
    STACKS,
    TEXT,
    USER_STACK,
    Machine,
    stack_top,
)
from tests.writers.tables import ADDRESS, P, U, W

READ, WRITE, ADD = "8a00", "8800", "480118"  # mov al,[rax]; mov [rax],al; add [rax],rbx
NOWHERE = 0x5000_0000
OWN_SLOT = 0x10_0000_0000_0
COW = 1 << 9


Change = Callable[[Machine], None]


@dataclass(frozen=True)
class Case:
    """`code` in ring `ring`, RAX = CR2 = `va`, pushes `error`."""

    name: str
    ring: int
    code: str
    va: int
    error: int
    expected: str
    changes: tuple[Change, ...] = ()


def leaf(va: int, clear: int = 0, add: int = 0) -> Change:
    return lambda m: m.change(va, clear=clear, add=add)


def reg(**values: int) -> Change:
    return lambda m: m.registers.update(values)


CASES = (
    Case("user-unmapped", 3, READ, NOWHERE, 0x4, "page-fault.unmapped"),
    Case("user-null", 3, WRITE, 0x8, 0x6, "page-fault.null"),
    Case("kernel-null", 0, READ, 0x10, 0x0, "page-fault.null"),
    Case("kernel-heap", 0, WRITE, HEAP + 0x5008, 0x2, "page-fault.unmapped"),
    Case("user-writes-code", 3, WRITE, CODE + 8, 0x7, "page-fault.write-protected"),
    Case("kernel-writes-text", 0, WRITE, TEXT + 8, 0x3, "page-fault.write-protected"),
    Case("update-reads-first", 3, ADD, NOWHERE, 0x4, "page-fault.unmapped"),
    Case("update-as-a-write", 3, ADD, NOWHERE, 0x6, "page-fault.unmapped"),
    Case("user-reads-kernel", 3, READ, TEXT + 8, 0x5, "page-fault.supervisor-only"),
    Case("guard", 0, WRITE, STACKS + 0x11000 + 0xFF8, 0x2, "page-fault.guard-page"),
    Case("below-ist", 0, WRITE, IST - 16, 0x2, "page-fault.guard-page"),
    Case("user-at-guard", 3, WRITE, STACKS + 0x800, 0x6, "page-fault.unmapped"),
    Case("copy-on-write", 3, WRITE, DATA + 8, 0x7, "page-fault.handled",
         (leaf(DATA, clear=W, add=COW),)),
    Case("copy-on-write-by-kernel", 0, WRITE, DATA + 8, 0x3, "page-fault.handled",
         (leaf(DATA, clear=W, add=COW),)),
    Case("read-only-without-mark", 3, WRITE, DATA + 8, 0x7, "page-fault.write-protected",
         (leaf(DATA, clear=W),)),
    Case("reserved", 0, READ, HEAP + 8, 0x9, "page-fault.reserved-bit",
         (lambda m: reserve(m),)),
    Case("reserved-as-tcg", 0, READ, HEAP + 8, 0x8, "page-fault.reserved-bit",
         (lambda m: reserve(m),)),
    Case("smap", 0, READ, DATA, 0x1, "page-fault.smap", (reg(cr4=0x6E8 | 1 << 21),)),
)  # fmt: skip


def reserve(m: Machine) -> None:
    """The PD entry of the heap becomes a large page that is not aligned."""
    table = m.root
    for shift in (39, 30):
        table = m.entry(table + (HEAP >> shift & 511) * 8) & ~0xFFF & ~NX
    at = table + (HEAP >> 21 & 511) * 8
    m.set_entry(at, m.entry(at) | 0x80)


def stop_of(case: Case, machine: Machine | None = None) -> Stop:
    m = machine or Machine()
    for change in case.changes:
        change(m)
    rip = CODE if case.ring == 3 else TEXT
    m.code(rip, case.code)
    rsp = case.va + 8 if case.expected == "page-fault.guard-page" else None
    return m.fault(14, rip, ring=case.ring, error=case.error, cr2=case.va, rax=case.va, rsp=rsp)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_code_and_its_proof(case: Case) -> None:
    finding = only(stop_of(case))
    assert finding.code.name == case.expected
    assert finding.confidence == "proved"
    assert finding.where.va == case.va and finding.where.root is not None
    assert evidence(finding)["ring"] == case.ring
    assert evidence(finding)["instruction"] is not None
    assert finding.chain == (f"#PF e={case.error:#x} CR2={case.va:#x}",)
    assert summary(finding) and "\n" not in summary(finding)
    assert str(evidence(finding)["explanation"]).endswith(".")


def test_fetches() -> None:
    m = Machine()
    stop = m.fault(14, DATA, error=0x15, cr2=DATA)
    assert only(stop).code.name == "page-fault.no-execute"
    m = Machine()
    m.registers["cr4"] |= 1 << 20
    smep = only(m.fault(14, CODE, ring=0, error=0x11, cr2=CODE))
    assert smep.code.name == "page-fault.smep"
    m = Machine()
    ring3 = only(m.fault(14, TEXT + 0x20, error=0x15, cr2=TEXT + 0x20))
    assert ring3.code.name == "page-fault.supervisor-only"
    assert "ring_mismatch" in evidence(ring3)


def test_a_fetch_from_nowhere_names_the_caller() -> None:
    m = Machine()
    rsp = stack_top(1) - 0x100
    m.write(rsp, (TEXT + 0x42).to_bytes(8, "little"))
    finding = only(m.fault(14, HEAP + 0x9000, ring=0, error=0x10, cr2=HEAP + 0x9000, rsp=rsp))
    assert finding.code.name == "page-fault.unmapped"
    assert evidence(finding)["return_address"] == hex(TEXT + 0x42)


BASE = Case("base", 3, WRITE, NOWHERE, 0x6, "page-fault.unmapped")


def test_mutations_the_tables_changed() -> None:
    """The page is there now: the pushed code is that of other tables."""
    m = Machine()
    m.map(NOWHERE, P | W | U | NX)
    finding = only(stop_of(BASE, m))
    assert (finding.code.name, finding.confidence) == ("page-fault.stale-tlb", "likely")
    assert evidence(finding)["predicted"] == "allowed"
    m = Machine()
    m.map(NOWHERE, P | U | NX)
    finding = only(stop_of(BASE, m))
    assert finding.code.name == "page-fault.stale-tlb"
    assert evidence(finding)["predicted"] == "0x7"


def test_mutations_another_cr3_is_named() -> None:
    m = Machine()
    m.map(NOWHERE, P | W | U | NX)  # in the first process only
    finding = only(stop_of(BASE, m))
    told = evidence(finding)["explanation"]
    assert "under master, shell (pid 2) they would give 0x6" in told


@pytest.mark.parametrize("bit", [0x1, 0x2, 0x4, 0x8, 0x10])
def test_mutations_each_bit_of_the_error_code(bit: int) -> None:
    case = Case("bit", 3, WRITE, NOWHERE, 0x6 ^ bit, "")
    findings = found(stop_of(case))
    codes = {f.code.name for f in findings}
    if bit == 0x4:  # not as ring 3: then it was the CPU itself, and at no place that it uses
        assert evidence(findings[0])["implicit"] is True
    elif bit in (0x1, 0x8, 0x10):  # there is no writing fetch at all
        assert codes == {"page-fault.stale-tlb"}
    else:  # another access of this instruction to the same hole
        assert codes == {"page-fault.unmapped"}
        assert findings[0].confidence == "likely"


def test_mutations_cr2_and_the_register() -> None:
    m = Machine()
    m.code(CODE, WRITE)
    stop = m.fault(14, CODE, error=0x6, cr2=NOWHERE, rax=NOWHERE + 0x8000)
    finding = only(stop)
    assert (finding.code.name, finding.confidence) == ("page-fault.unmapped", "likely")
    assert "no access of the decoded instruction leads there" in str(
        evidence(finding)["explanation"]
    )


def test_without_the_instruction_the_tables_still_prove_it() -> None:
    m = Machine()
    m.unmap(CODE)  # its bytes are not to be had; but then it could not have been fetched
    finding = only(m.fault(14, CODE, error=0x6, cr2=NOWHERE))
    assert finding.code.name == "page-fault.unmapped"
    del m.tables.frames[m.entry(m.leaf(DATA)) & 0xF_FFFF_F000]
    finding = only(m.fault(14, DATA, error=0x6, cr2=NOWHERE))
    assert evidence(finding)["instruction"] is None


def test_without_efer_a_fetch_is_told_from_a_read() -> None:
    m = Machine()
    del m.registers["efer"]
    finding = only(m.fault(14, DATA, error=0x15, cr2=DATA))
    assert finding.code.name == "page-fault.no-execute"


def test_without_the_tables_it_is_not_checked() -> None:
    m = Machine()
    m.code(CODE, WRITE)
    stop = m.fault(14, CODE, error=0x7, cr2=DATA, rax=DATA)
    pt = m.leaf(DATA) & ~0xFFF
    memory = stop.memory
    del memory.frames[pt]  # type: ignore[attr-defined]
    with pytest.raises(NotChecked, match=r"FaultNotRead\(cpu=0"):
        found(stop)


def test_the_push_of_an_interrupt_frame() -> None:
    """int 0x80 in ring 3, RSP0's top page gone in this process only: Breenix d90ed3bd."""
    m = Machine()
    table = m.tables.new_table()
    m.tables.frames[table] = bytearray(m.tables.frames[m.entry(m.root + 402 * 8) & ~0xFFF])
    m.set_entry(m.root + 402 * 8, 0)
    m.code(CODE, "cd80")
    top = stack_top(1)
    event, defect = found(m.fault(14, CODE, error=0x2, cr2=top - 8))
    assert (event.code.name, event.cause) == ("page-fault.unmapped", "kernel-stack.unmapped")
    assert event.chain == ("int 0x80", f"#PF e=0x2 CR2={top - 8:#x}")
    assert (event.confidence, evidence(event)["implicit"]) == ("proved", True)
    assert defect.code.name == "kernel-stack.unmapped" and defect.subject == "slot 1"
    assert evidence(defect)["mapped_in"] == ["master", "shell (pid 2)"]


def test_an_interrupt_pushes_onto_a_bad_rsp0() -> None:
    """Breenix 9f67bb79: RSP0 is a stack's own top + 0x3000, inside the slot above."""
    m = Machine()
    m.code(CODE, "ebfe")
    for page in range(16):
        m.unmap(STACKS + 2 * 0x11000 + 0x1000 + page * 0x1000, m.master)
    bad = stack_top(1) + 0x3000
    m.tss(rsp0=bad)
    event, defect = found(m.fault(14, CODE, error=0x2, cr2=bad - 8))
    assert (event.code.name, event.cause) == ("page-fault.unmapped", "tss.rsp0-invalid")
    assert event.chain[0] == "interrupt"
    assert defect.code.name == "tss.rsp0-invalid" and defect.effective_severity == "error"
    m.registers["cr2"] = 0
    quiet = found(m.fault(14, CODE, error=0x2, cr2=bad - 8, rflags=0x2))
    assert quiet[0].confidence != "proved", "interrupts were off: what came is not known"


def test_a_read_only_kernel_stack() -> None:
    m = Machine()
    top = stack_top(1)
    m.change(top - 8, clear=W)
    m.code(CODE, "cd80")
    event, defect = found(m.fault(14, CODE, error=0x3, cr2=top - 8))
    assert (event.code.name, event.cause) == (
        "page-fault.write-protected",
        "kernel-stack.read-only",
    )
    assert defect.code.name == "kernel-stack.read-only"


def test_a_descriptor_table_that_is_gone() -> None:
    """iretq loads CS from a GDT that is not mapped; the handler runs because gate 14 is intact."""
    m = Machine()
    rsp = stack_top(1) - 0x100
    m.code(TEXT, "48cf")
    m.write(rsp, b"".join(v.to_bytes(8, "little") for v in (CODE, 0x33, 0x202, USER_STACK, 0x2B)))
    stop = m.fault(14, TEXT, ring=0, error=0x0, cr2=0x80_0001_0030, rsp=rsp)
    frames = stop.memory.frames  # type: ignore[attr-defined]
    pt = m.leaf(0x80_0001_0000)
    frames[pt & ~0xFFF][pt & 0xFFF] = 0
    event, defect = found(stop)
    assert (event.code.name, event.cause) == ("page-fault.unmapped", "gdt.unmapped")
    assert defect.code.name == "gdt.unmapped"


def test_two_cpus_fault_at_once() -> None:
    m = Machine()
    m.code(CODE, READ)
    m.gate(13, ist=1)
    first = m.at_handler(14, CODE, error=0x4, cr2=NOWHERE, rax=NOWHERE)
    m.code(CODE + 0x100, "f4")
    second = m.at_handler(13, CODE + 0x100, error=0, stack=IST + 0x2000, index=1)
    findings = found(m.stop(StopReason("fault", 0, 14), first, second))
    assert [f.code.name for f in findings] == ["page-fault.unmapped", "general-protection"]


def test_a_fault_inside_the_page_fault_handler() -> None:
    m = Machine()
    m.code(TEXT, READ)
    finding = only(m.fault(14, TEXT, ring=0, error=0, cr2=0x8, rax=8, rsp=IST + 0x3F00))
    assert "inside an exception handler" in str(evidence(finding)["explanation"])


def test_no_finding_where_nothing_faulted() -> None:
    m = Machine()
    assert found(m.stop(StopReason("marker"), m.cpu(rip=TEXT, rsp=stack_top(1), cs=8, ss=0))) == []


def test_the_reserved_bit_is_named_with_its_reason_and_its_fix() -> None:
    """EFER.NXE is 0 on that CPU alone (SDM vol. 3, 4.5)."""
    m = Machine()
    m.code(TEXT, READ)
    fault = only(m.fault(14, TEXT, ring=0, error=0x9, cr2=HEAP, rax=HEAP, efer=0x500))
    said = "whose bit 63 (NX) is reserved while EFER.NXE is 0 on CPU 0 (EFER is 0x500)"
    assert (fault.code.name, said in summary(fault)) == ("page-fault.reserved-bit", True)
    assert "EFER.NXE" in fault.fix


def test_mutations_with_nxe_that_bit_is_an_ordinary_one() -> None:
    m = Machine()
    m.code(TEXT, READ)
    fault = only(m.fault(14, TEXT, ring=0, error=0x9, cr2=HEAP, rax=HEAP))
    assert fault.code.name == "page-fault.stale-tlb"


@pytest.mark.parametrize(
    ("level", "bits", "said"),
    [
        (2, 0x80 | 1 << 13, "bit 13 is reserved in the entry of a large page"),
        (2, 0x80 | 3 << 13, "bits 13, 14 are reserved in the entry of a large page"),
        (4, 0x80, "bit 7 (PS) is reserved at this level, which has no large pages"),
        (1, 1 << 45, "bit 45 is reserved on a CPU whose physical addresses have 40 bits"),
    ],
)
def test_each_reason_of_a_reserved_bit(level: int, bits: int, said: str) -> None:
    m = Machine()
    m.code(CODE, READ)
    m.map(NOWHERE, P | U)
    table = m.root
    for number in range(4, level, -1):
        table = m.entry(table + 8 * (NOWHERE >> (3 + 9 * number) & 511)) & ADDRESS
    at = table + 8 * (NOWHERE >> (3 + 9 * level) & 511)
    m.set_entry(at, (P | U if level == 2 else m.entry(at)) | bits)
    stop = m.fault(14, CODE if level < 4 else TEXT, ring=3 if level < 4 else 0,
                   error=0xD if level < 4 else 0x9, cr2=NOWHERE, rax=NOWHERE)  # fmt: skip
    fault = found(stop._replace(cpus=(stop.cpu._replace(phys_bits=40),)))[0]
    assert fault.code.name == "page-fault.reserved-bit"
    assert said in summary(fault)
    assert "NXE" not in fault.fix


def test_all_levels_that_lack_the_right_are_named() -> None:
    """The last entry has U, so the page is meant for ring 3: rust-osdev/x86_64 #113."""
    m = Machine()
    m.code(CODE, READ)
    m.tables.map(m.root, OWN_SLOT, m.tables.new_table(), P | U, way=P | W)
    fault = only(m.fault(14, CODE, error=0x5, cr2=OWN_SLOT, rax=OWN_SLOT))
    assert fault.code.name == "page-fault.supervisor-only"
    said = summary(fault)
    assert "the PML4 entry" in said and "lacks U, as do the PDPT entry" in said
    assert "the PT entry" in said and "so the page is meant for ring 3" in said
    assert "parent tables" in fault.fix
    m.change(OWN_SLOT, clear=U)
    kernels = only(m.fault(14, CODE, error=0x5, cr2=OWN_SLOT, rax=OWN_SLOT))
    assert "meant for" not in summary(kernels) and "and the PT entry" in summary(kernels)
    assert kernels.fix != fault.fix


def test_a_read_only_parent_of_a_writable_page() -> None:
    m = Machine()
    m.code(TEXT, WRITE)
    m.tables.map(m.root, OWN_SLOT, m.tables.new_table(), P | W, way=P)
    fault = only(m.fault(14, TEXT, ring=0, error=0x3, cr2=OWN_SLOT, rax=OWN_SLOT))
    assert fault.code.name == "page-fault.write-protected"
    assert "so the page is meant for writing" in summary(fault)


def test_an_error_code_that_nobody_saw_is_not_said_to_have_been_predicted() -> None:
    m = Machine()
    m.unmap(IST + 0x4000 - 8)
    m.code(TEXT, READ)
    stop = m.fault(8, TEXT, ring=0, error=0, cr2=IST + 0x4000 - 8, rax=NOWHERE)
    first = found(stop)[1]
    told = str(evidence(first)["explanation"])
    assert "No handler saw its error code; by the tables it is 0x0" in told
    assert "predict" not in told


def test_a_cr3_that_lacks_all_that_the_cpu_runs_on() -> None:
    """The instruction after mov cr3 is not mapped, nor are stack, IDT and GDT: an empty table."""
    m = Machine()
    m.root = m.tables.new_table()
    triple, first, *_ = found(m.shutdown(TEXT, cr2=IDT + 8 * 16))
    assert (triple.code.name, triple.cause) == ("triple-fault", "page-fault.unmapped")
    assert "RIP, RSP, IDT and GDT" in str(evidence(first)["explanation"])
    assert "Before CR3 is loaded" in first.fix and triple.fix == first.fix


def test_a_wild_jump_is_not_blamed_on_cr3() -> None:
    m = Machine()
    fault = only(m.fault(14, NOWHERE, ring=0, error=0x10, cr2=NOWHERE))
    assert "does not map what the CPU runs on" not in summary(fault)


def test_the_instruction_that_loaded_a_wrong_cr3_is_named() -> None:
    """Where its register still has what CR3 has: else another instruction loaded it."""
    for register, named in (("rax", True), ("rbx", False)):
        m = Machine()
        m.code(TEXT, "900f22d8")
        m.root = m.tables.new_table()
        m.registers[register] = m.root
        stop = m.shutdown(TEXT + 4, cr2=IDT + 8 * 16)
        other = m.cpu(1, rip=TEXT, rsp=stack_top(1), cs=8, ss=0, eflags=2, cr3=m.master)
        first = found(stop._replace(cpus=(*stop.cpus, other)))[1]
        assert ("mov cr3, rax" in summary(first)) is named


@pytest.mark.parametrize(
    ("code", "entry", "register"), [("8ed8", 2, "DS"), ("0f00d8", 3, "TR")], ids=["mov ds", "ltr"]
)
def test_the_cpus_own_write_is_told_where_the_selector_is_not_known(
    code: str, entry: int, register: str
) -> None:
    """Inside a handler RAX is another: CR2 tells which descriptor it was."""
    m = Machine()
    m.code(TEXT, code)
    type_at = GDT + 8 * entry + 5
    m.write(type_at, bytes([0x92 if register == "DS" else 0x89]))
    m.change(GDT, clear=W)
    at = GDT + 8 * entry + 4
    fault = only(m.fault(14, TEXT, ring=0, error=3, cr2=at, rax=-1))
    assert (fault.code.name, fault.confidence) == ("page-fault.write-protected", "likely")
    assert f"{register} is loaded from GDT entry {entry}" in summary(fault)
    assert "accessed bit of segment descriptors" in fault.fix
