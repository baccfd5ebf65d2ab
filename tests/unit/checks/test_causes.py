"""Two checks of one stop: what the one found is why the other did, and weighs accordingly."""

from __future__ import annotations

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.faults import as_handled
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.stop import Stop
from tests.writers.machine import CODE, TEXT, Machine, stack_top

NOWHERE = 0x5000_0000


def found(stop: Stop, code: str) -> Finding:
    (finding,) = [f for f in examine(stop).findings if f.code.name == code]
    return finding


def test_a_gate_that_was_needed_is_an_error() -> None:
    """An audit finds it too, and to that it is a warning. It made a fault worse: the fault is the
    cause."""
    m = Machine()
    m.gate(14, present=False)
    m.code(TEXT, "8a00")
    stop = m.fault(8, TEXT, ring=0, error=0, cr2=NOWHERE, rax=NOWHERE)
    assert found(stop, "double-fault").cause == "page-fault.unmapped"
    assert found(stop, "idt.gate-missing").effective_severity == "error"


def test_a_gate_that_nobody_needed_is_a_warning() -> None:
    m = Machine()
    m.gate(6, present=False)
    m.code(TEXT, "8a00")
    stop = m.fault(14, TEXT, ring=0, error=0, cr2=NOWHERE, rax=NOWHERE)
    assert found(stop, "idt.gate-missing").effective_severity == "warning"


def test_ring_3_under_the_master_faults_because_of_it() -> None:
    """79c4818a: error code 0x14, CR2 == RIP; killing the process would be no answer."""
    m = Machine()
    m.root = m.master
    fault = found(m.fault(14, CODE, error=0x14, cr2=CODE), "page-fault.unmapped")
    assert fault.cause == "cr3.wrong-process"
    assert as_handled(fault, "it went on") is fault


def test_what_nobody_maps_is_not_the_fault_of_cr3() -> None:
    m = Machine()
    m.root = m.master
    fault = found(m.fault(14, CODE, error=0x4, cr2=NOWHERE), "page-fault.unmapped")
    assert fault.cause is None


def test_the_stack_that_only_this_space_lacks() -> None:
    """05889549: the first push after mov cr3."""
    m = Machine()
    m.set_entry(m.root + 402 * 8, 0)
    m.code(TEXT, "50")
    rsp = stack_top(1) - 0x80
    stop = m.fault(14, TEXT, ring=0, error=2, rsp=rsp, cr2=rsp - 8)
    assert found(stop, "page-fault.unmapped").cause == "kernel-stack.unmapped"


def test_a_stack_that_no_space_has_is_no_cause() -> None:
    m = Machine()
    m.code(TEXT, "50")
    rsp = stack_top(60) - 0x80
    stop = m.fault(14, TEXT, ring=0, error=2, rsp=rsp, cr2=rsp - 8)
    assert found(stop, "page-fault.unmapped").cause is None


def without_frame(stop: Stop) -> Stop:
    """The stop with RSP where nothing can be read."""
    cpu = stop.cpu._replace(registers={**stop.cpu.registers, "rsp": NOWHERE})
    return stop._replace(cpus=(cpu,))


def test_a_wrong_cr3_is_told_where_the_frame_is_in_no_ram() -> None:
    """The bootloader's tables may lead to a device where the IST stack was: HEAD under CR3 0x101000
    pushed the frame into its frame buffer. What was interrupted is not known, CR3 is."""
    m = Machine()
    m.root = m.boot_root()
    stop = m.fault(14, TEXT, ring=0, error=2, cr2=NOWHERE)
    seen = examine(without_frame(stop))
    assert "cr3.bootloader" in {f.code.name for f in seen.findings}
    assert {c.name: c.status for c in seen.checks}["faults"] == "not_checked"


def test_a_frame_that_cannot_be_read_leaves_cr3_unchecked() -> None:
    m = Machine()
    stop = without_frame(m.fault(14, TEXT, ring=0, error=2, cr2=NOWHERE))
    status = {c.name: c.status for c in examine(stop).checks}
    assert (status["faults"], status["cr3"]) == ("not_checked", "not_checked")
