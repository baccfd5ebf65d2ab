"""An exception as the CPU reports it, held against the tables; and the findings that it makes."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from breenix_gdbagent.aarch64.paging import EL0, PXN, READ_ONLY, UXN, walk
from breenix_gdbagent.aarch64.taken import taken
from breenix_gdbagent.aarch64.translation import Translation
from breenix_gdbagent.aarch64.vectors import EL0_SYNC, EL1_SYNC
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.taken import Taken
from breenix_gdbagent.checks.faults import aborts, analyzer, handled
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.report import sentences
from breenix_gdbagent.stop import StopReason
from tests.unit.aarch64.tables import PAGE, Writer, cpu

KERNEL = 0xFFFF_0000_0000_0000
CODE, STACK, HEAP, GONE = KERNEL + 0x1000, KERNEL + 0x5000, KERNEL + 0x9000, KERNEL + 0x20_0000
PROGRAM, DATA = 0x40_0000, 0x40_1000
EL1H = 0x3C5
BLR_X8, RET = 0xD63F0100, 0xD65F03C0


class Machine:
    """A kernel with code, one page of stack, data and a hole; a program with code and data."""

    def __init__(self, code: int = RET) -> None:
        plain = cpu()
        mode = Translation.of(plain)
        assert mode is not None
        writer = Writer(mode)
        self.low, self.high = writer.table(mode.low), writer.table(mode.high)
        for va, raw in (
            (CODE, 0x1_0000 | PAGE | UXN | READ_ONLY),
            (STACK, 0x2_0000 | PAGE | UXN | PXN),
            (HEAP, 0x3_0000 | PAGE | UXN | PXN),
        ):
            writer.map(self.high, va, raw)
        writer.map(self.low, PROGRAM, 0x4_0000 | PAGE | EL0 | READ_ONLY | PXN)
        writer.map(self.low, DATA, 0x5_0000 | PAGE | EL0 | UXN | PXN)
        self.tables = writer.tables
        self.mode = mode._replace(kernel_root=mode.high.table_of(self.high))
        self.code = code

    def cpu(self, **registers: int) -> Cpu:
        """At a vector of EL1 in CODE, its stack in STACK."""
        base = cpu(ttbr0=self.low, ttbr1=self.high, sctlr=8).registers
        usual = {"pc": CODE, "sp": STACK + 0x800, "sp_el0": DATA, "x30": CODE + 8, "far_el1": 0}
        return Cpu(0, {**base, **usual, **registers}, arch_name="aarch64")

    def read(self, va: int, length: int) -> bytes:
        return struct.pack("<I", self.code)[:length]

    def walk(self, root: int, va: int) -> Any:
        return walk(self.tables, root, va, self.mode)

    def taken(self, esr: int, far: int = 0, spsr: int = EL1H, **registers: int) -> Taken:
        slot = EL0_SYNC if spsr & 0xF == 0 else EL1_SYNC
        given = {"esr_el1": esr, "far_el1": far, "spsr_el1": spsr, "elr_el1": CODE + 0x40}
        return taken(self.cpu(**{**given, **registers}), slot, self.walk, self.read)

    def findings(self, esr: int, far: int = 0, spsr: int = EL1H, **registers: int) -> list[Finding]:
        slot = EL0_SYNC if spsr & 0xF == 0 else EL1_SYNC
        given = {"esr_el1": esr, "far_el1": far, "spsr_el1": spsr, "elr_el1": CODE + 0x40}
        one = self.cpu(**{**given, **registers})
        stop = SimpleNamespace(cpus=(one,), cpu=one, reason=StopReason("fault", 0, vector=slot))
        kernel: Any = SimpleNamespace(
            stop=stop,
            mode=self.mode,
            walk=self.walk,
            memory_of=lambda root: SimpleNamespace(read=self.read),
            symbol=lambda va: "function+0x40" if va >= KERNEL else None,
            space_of=lambda root: SimpleNamespace(subject="program"),
        )
        return list(analyzer.check(kernel))


def data(el: int, fsc: int, write: bool = False) -> int:
    return (0x25 if el else 0x24) << 26 | 1 << 25 | write << 6 | fsc


def fetch(el: int, fsc: int) -> int:
    return (0x21 if el else 0x20) << 26 | 1 << 25 | fsc


REFUSED = [
    (data(1, 0x06), GONE, EL1H, "unmapped", "page-fault.unmapped"),
    (data(1, 0x04), 8, EL1H, "null", "page-fault.null"),
    (data(1, 0x04), 1 << 56, EL1H, "non-canonical", "page-fault.non-canonical"),
    (data(1, 0x0F, True), CODE, EL1H, "write-protected", "page-fault.write-protected"),
    (data(0, 0x0F), HEAP, 0, "supervisor-only", "page-fault.supervisor-only"),
    (data(0, 0x0F, True), PROGRAM, 0, "write-protected", "page-fault.write-protected"),
    (fetch(0, 0x0F), DATA, 0, "no-execute", "page-fault.no-execute"),
    (data(1, 0x0F), DATA, EL1H | 1 << 22, "smap", "page-fault.smap"),
    (data(1, 0x21), HEAP + 1, EL1H, "other", "exception.unhandled"),
    (data(1, 0x10), HEAP, EL1H, "other", "exception.unhandled"),
    (1 << 25, 0, EL1H, "undefined", "invalid-opcode"),
    (0x0E << 26 | 1 << 25, 0, EL1H, "bad-return", "eret.frame"),
]


@pytest.mark.parametrize(
    ("esr", "far", "spsr", "refusal", "code"), REFUSED, ids=[f"{r[3]}-{r[0]:#x}" for r in REFUSED]
)
def test_what_was_refused_and_that_the_tables_say_the_same(
    esr: int, far: int, spsr: int, refusal: str, code: str
) -> None:
    machine = Machine()
    if refusal == "null":
        esr = data(1, 0x06)  # there are tables down to level 2 for it
    found = machine.taken(esr, far, spsr)
    assert found.refusal == refusal
    assert found.agrees == (refusal not in ("other", "undefined", "bad-return"))
    (finding,) = machine.findings(esr, far, spsr)
    assert finding.code.name == code
    assert sentences.summary(finding)
    assert finding.subject == ("function" if spsr else "program")


def test_what_the_tables_do_not_give_is_told_apart() -> None:
    (finding,) = Machine().findings(data(1, 0x07), HEAP)
    assert finding.code.name == "page-fault.stale-tlb"
    assert "none" in sentences.words(finding).explanation


def test_a_jump_to_a_programs_page_was_called_or_returned_to() -> None:
    called = Machine(BLR_X8).taken(fetch(1, 0x0F), PROGRAM, x8=PROGRAM)
    assert called.refusal == "smep"
    (finding,) = Machine(RET).findings(fetch(1, 0x0F), PROGRAM)
    assert finding.code is aborts.ERET_FRAME


def test_a_context_of_zeroes() -> None:
    registers = {f"x{n}": 0 for n in range(31)} | {"elr_el1": 0, "x16": 0x82000005}
    found = Machine().findings(fetch(0, 0x06), 0, 0, **registers)
    assert [f.code.name for f in found] == ["eret.frame", "page-fault.null"]
    assert found[1].cause == "eret.frame" and found[1].because == (found[0],)
    assert not any(handled.is_user_fault(f) for f in found)


@pytest.mark.parametrize(
    ("registers", "why"),
    [
        ({"sp": GONE + 0x10}, "cannot be written"),
        ({"sp": STACK + 0x10}, "cannot be written"),
        ({"sp": CODE + 0x800}, "permission fault"),
        ({"pc": GONE}, "cannot be executed"),
        ({}, ""),
    ],
    ids=["gone", "no room left", "read-only", "the vector itself", "sound"],
)
def test_a_vector_that_cannot_begin(registers: dict[str, int], why: str) -> None:
    found = Machine().findings(data(1, 0x06), GONE, **registers)
    doubles = [f for f in found if f.code.name == "double-fault"]
    assert len(doubles) == bool(why)
    for double in doubles:
        assert why in double.chain[-1] and double.cause == found[0].code.name


def test_a_stack_that_ran_into_what_is_below_it() -> None:
    found = Machine().findings(data(1, 0x07, True), STACK - 16, sp=STACK - 16)
    assert [f.code.name for f in found] == ["page-fault.guard-page", "double-fault"]


@pytest.mark.parametrize(("sp", "found"), [(STACK + 0x808, 1), (STACK + 0x800, 0)])
def test_a_stack_pointer_that_is_no_multiple_of_16(sp: int, found: int) -> None:
    said = Machine().findings(data(1, 0x06), GONE, sp=sp)
    assert sum(f.code is aborts.SP_MISALIGNED for f in said) == found


def test_a_programs_fault_is_its_own() -> None:
    (finding,) = Machine().findings(data(0, 0x0F), HEAP, 0)
    assert handled.is_user_fault(finding)
    (finding,) = Machine().findings(data(1, 0x06), GONE)
    assert not handled.is_user_fault(finding)
