"""One stop made by hand in which nothing is wrong, and what is new in it when one thing happens: a
mutation for each code of a fault or of a run's end. Those of the audits are in `test_mutations` and
in tests/guest/test_audit_mutations.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.run import RunFacts, check
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import SerialChunk, SerialText, Stop, StopReason
from tests.unit.checks.loaded import overwritten
from tests.writers.machine import (
    CODE,
    DATA,
    HEAP,
    IST,
    NX,
    STACKS,
    TEXT,
    Machine,
    handler,
    stack_top,
)
from tests.writers.tables import ADDRESS, PS, P, U, W

NOWHERE = 0x5000_0000
LARGE, FREE = 0x1000_0000, 0x1800_0000
NON_CANONICAL = 1 << 63
READ, WRITE, HLT, UD2, DIVIDE = "8a00", "8800", "f4", "0f0b", "f7f1"
COW = 1 << 9
Happens = Callable[[Machine], Stop]
NOTHING_RAN = RunFacts()


@dataclass(frozen=True)
class Mutation:
    name: str
    happens: Happens
    facts: RunFacts
    codes: frozenset[str]


MUTATIONS: list[Mutation] = []


def mutation(*codes: str, facts: RunFacts = NOTHING_RAN) -> Callable[[Happens], Happens]:
    def enter(happens: Happens) -> Happens:
        name = happens.__name__.replace("_", "-")
        MUTATIONS.append(Mutation(name, happens, facts, frozenset(codes)))
        return happens

    return enter


def quiet(m: Machine) -> Stop:
    """A process of ring 3, interrupted between two instructions of its own."""
    m.code(CODE, READ)
    cpu = m.cpu(rip=CODE, rsp=DATA + 0xF00, cs=0x33, ss=0x2B, eflags=0x202)
    return m.stop(StopReason("interrupt"), cpu)


def access(m: Machine, code: str, va: int, error: int, *, ring: int = 3, **more: int) -> Stop:
    """`code` at `va` in RAX has page-faulted."""
    rip = CODE if ring == 3 else TEXT
    m.code(rip, code)
    return m.fault(14, rip, ring=ring, error=error, cr2=va, rax=va, **more)


@mutation("page-fault.unmapped")
def reads_what_is_not_mapped(m: Machine) -> Stop:
    return access(m, READ, NOWHERE, 0x4)


@mutation("page-fault.null")
def writes_through_null(m: Machine) -> Stop:
    return access(m, WRITE, 0x10, 0x2, ring=0)


@mutation("page-fault.write-protected")
def writes_its_code(m: Machine) -> Stop:
    return access(m, WRITE, CODE + 8, 0x7)


@mutation("page-fault.supervisor-only")
def reads_the_kernels_text(m: Machine) -> Stop:
    return access(m, READ, TEXT + 8, 0x5)


@mutation("page-fault.no-execute")
def executes_its_data(m: Machine) -> Stop:
    return m.fault(14, DATA, error=0x15, cr2=DATA)


@mutation("page-fault.reserved-bit")
def reads_through_a_malformed_entry(m: Machine) -> Stop:
    """A large page that is not aligned to its size."""
    m.tables.map(m.root, LARGE, FREE, P | W | U | NX, level=2)
    at = m.entry(m.entry(m.root) & ADDRESS) & ADDRESS
    assert m.entry(at + 8 * (LARGE >> 21 & 511)) == FREE | P | W | U | NX | PS
    m.set_entry(at + 8 * (LARGE >> 21 & 511), FREE | 1 << 13 | P | W | U | NX | PS)
    return access(m, READ, LARGE, 0xD)


@mutation("page-fault.smep")
def executes_user_code_in_ring_0(m: Machine) -> Stop:
    m.registers["cr4"] |= 1 << 20
    return m.fault(14, CODE, ring=0, error=0x11, cr2=CODE)


@mutation("page-fault.smap")
def reads_user_data_in_ring_0(m: Machine) -> Stop:
    m.registers["cr4"] |= 1 << 21
    return access(m, READ, DATA, 0x1, ring=0)


@mutation("page-fault.stale-tlb")
def faults_where_the_tables_permit(m: Machine) -> Stop:
    m.map(NOWHERE, P | W | U | NX)
    return access(m, WRITE, NOWHERE, 0x6)


@mutation("page-fault.guard-page")
def pushes_into_its_guard(m: Machine) -> Stop:
    va = STACKS + 0x11000 + 0xFF8
    return access(m, WRITE, va, 0x2, ring=0, rsp=va + 8)


@mutation("page-fault.non-canonical")
def reads_a_non_canonical_address(m: Machine) -> Stop:
    m.code(CODE, READ)
    return m.fault(13, CODE, error=0, rax=NON_CANONICAL)


@mutation("page-fault.handled")
def writes_a_page_that_is_copy_on_write(m: Machine) -> Stop:
    m.change(DATA, clear=W, add=COW)
    return access(m, WRITE, DATA, 0x7)


@mutation("general-protection")
def halts_in_ring_3(m: Machine) -> Stop:
    m.code(CODE, HLT)
    return m.fault(13, CODE, error=0)


@mutation("invalid-opcode")
def meets_ud2(m: Machine) -> Stop:
    m.code(CODE, UD2)
    return m.fault(6, CODE)


@mutation("page-fault.reserved-bit", "tables.nx-without-nxe")
def reads_data_on_a_cpu_without_nxe(m: Machine) -> Stop:
    return access(m, READ, HEAP, 9, ring=0, efer=0x500)


@mutation("page-fault.unmapped", "kernel-code.overwritten")
def runs_zeros_where_its_code_was(m: Machine) -> Stop:
    return overwritten(m, 0, bytes(0x300))


@mutation("divide-error")
def divides_by_zero(m: Machine) -> Stop:
    m.code(CODE, DIVIDE)
    return m.fault(0, CODE, rcx=0, rax=1, rdx=0)


@mutation("double-fault", "exception.unhandled", "idt.gate-missing")
def raises_what_has_no_gate(m: Machine) -> Stop:
    m.code(TEXT, "9b")
    m.registers |= {"cr0": m.registers["cr0"] | 0x20, "fstat": 0x80}
    return m.fault(8, TEXT, ring=0, error=0)


@mutation("triple-fault", "page-fault.unmapped", "ist.unmapped")
def loses_both_its_exception_stacks(m: Machine) -> Stop:
    for top in (IST + 0x2000, IST + 0x4000):
        m.unmap(top - 8)
    m.code(TEXT, READ)
    return m.shutdown(TEXT, cr2=IST + 0x2000 - 8, rax=NOWHERE)


@mutation("pic.not-remapped")
def is_interrupted_at_the_vector_of_a_double_fault(m: Machine) -> Stop:
    """The timer, whose line the firmware put there: no error code is pushed."""
    m.code(TEXT, "90")
    words = (TEXT, 8, 0x202, stack_top(1) - 0x100, 0)
    at = IST + 0x2000 - 8 * len(words)
    m.write(at, b"".join(word.to_bytes(8, "little") for word in words))
    cpu = m.cpu(rip=handler(8), rsp=at, cs=8, ss=0, eflags=0x46)
    return m.stop(StopReason("fault", 0, 8), cpu)


DUMP = """!!!! X64 Exception Type - 0D(#GP - General Protection)  CPU Apic ID - 00000000 !!!!
ExceptionData - 0000000000000000
RIP  - 0000000007A01022, CS  - 0000000000000038, RFLAGS - 0000000000010246
RAX  - 8000000000000000, RCX - 0000000000000001, RDX - 0000000000000002
RSP  - 0000000007F00100, SS  - 0000000000000030
CR0  - 0000000080010033, CR2 - 0000000000000000, CR3 - {cr3:016X}
"""
IMAGE = "(ImageBase=0000000007A00000, EntryPoint=0000000007A01000) !!!!"


@mutation("loader-fault", facts=RunFacts("halted"))
def never_comes_to_the_kernel(m: Machine) -> Stop:
    """UEFI has printed an exception of the loader, and spins; no kernel has loaded an IDT."""
    stop = quiet(m)
    cpus = tuple(cpu._replace(idtr=None) for cpu in stop.cpus)
    last = f"!!!! Find image based on IP(0x7A01022) loader.efi {IMAGE}"
    return says(stop._replace(cpus=cpus), DUMP.format(cr3=m.root) + last)


@mutation("reboot")
def resets_the_machine(m: Machine) -> Stop:
    m.code(TEXT, "e664")  # out 0x64, al
    return m.shutdown(TEXT + 2, rax=0xFE)


@mutation("panic", facts=RunFacts("panic"))
def panics(m: Machine) -> Stop:
    return says(quiet(m), "KERNEL PANIC: panicked at kernel/src/main.rs:1:1: no more")


@mutation("hang", facts=RunFacts("deadline", timeout=1.0, stuck=True))
def halts_for_good(m: Machine) -> Stop:
    rsp = stack_top(1) - 0x100
    cpu = m.cpu(rip=TEXT, rsp=rsp, cs=8, ss=0, eflags=2)._replace(halted=True)
    return m.stop(StopReason("deadline"), cpu)


@mutation("marker-missing", facts=RunFacts("deadline", until="DONE", timeout=1.0))
def never_says_it(m: Machine) -> Stop:
    return quiet(m)


@mutation("unexpected-exit", facts=RunFacts("exit", exit_status=35))
def ends_by_itself(m: Machine) -> Stop:
    return quiet(m)


@mutation("tests-failed", facts=RunFacts("marker"))
def says_that_its_tests_failed(m: Machine) -> Stop:
    return says(quiet(m), "TEST_TALLY: exited=3 nonzero=1 failed=[child:2]")


@mutation("log.error", facts=RunFacts("marker"))
def logs_an_error(m: Machine) -> Stop:
    return says(quiet(m), "[ERROR] kernel::net: no reply")


def says(stop: Stop, line: str) -> Stop:
    chunks = (*stop.serial.chunks, SerialChunk(0, 0.0, line.encode() + b"\n"))
    return stop._replace(serial=SerialText(chunks))


def codes_of(stop: Stop, facts: RunFacts) -> set[str]:
    kernel = Kernel(stop)
    found = [*examine(stop, kernel).findings, *check(kernel, facts, None)]
    return {f.code.name for f in found}


@pytest.mark.parametrize("one", MUTATIONS, ids=lambda m: m.name)
def test_exactly_the_declared_codes_are_new(one: Mutation) -> None:
    before = codes_of(quiet(Machine()), NOTHING_RAN)
    assert codes_of(one.happens(Machine()), one.facts) - before == one.codes


def test_the_quiet_stop_has_nothing_to_fear() -> None:
    found = examine(quiet(Machine())).findings
    assert {f.fingerprint for f in found if f.effective_severity == "error"} == set()
