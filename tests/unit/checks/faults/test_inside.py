"""Stops inside a handler: the exception found again by the frame that it left."""

from __future__ import annotations

import pytest

from breenix_gdbagent.kernel.inside import exceptions_inside
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop, StopReason
from tests.said import evidence
from tests.unit.checks.faults.stops import found, names, only
from tests.writers.machine import CODE, IST, TEXT, Machine, handler, stack_top

NOWHERE = 0x5000_0000


def later(stop: Stop, kind: str = "deadline", deeper: int = 0x200) -> Stop:
    """The same CPU some instructions on, its general registers used for other things."""
    registers = {n: v for n, v in stop.cpu.registers.items()}
    vector = stop.reason.vector or 0
    registers |= {"rip": handler(vector) + 8, "rsp": stop.cpu.rsp - deeper, "rax": 7}
    return stop._replace(reason=StopReason(kind), cpus=(stop.cpu._replace(registers=registers),))


def kernel_fault(m: Machine) -> Stop:
    m.code(TEXT, "8a00")
    return m.fault(14, TEXT, ring=0, error=0, cr2=NOWHERE, rax=NOWHERE)


@pytest.mark.parametrize("kind", ["deadline", "attached", "core", "interrupt", "panic"])
def test_the_kernels_page_fault_that_ended_in_hlt(kind: str) -> None:
    finding = only(later(kernel_fault(Machine()), kind))
    assert (finding.code.name, finding.weight) == ("page-fault.unmapped", "error")
    assert evidence(finding)["seen"] == "inside its handler"
    assert finding.where.va == NOWHERE


def test_the_marker_came_so_it_is_nobodys_business() -> None:
    assert found(later(kernel_fault(Machine()), "marker")) == []


def test_a_handler_that_has_mended_it_is_no_defect() -> None:
    m = Machine()
    stop = later(kernel_fault(m))
    m.map(NOWHERE, 0x3)
    assert found(stop._replace(memory=m.memory())) == []


def test_a_fault_of_ring_3_is_one_only_where_all_ended() -> None:
    def stop(kind: str) -> Stop:
        m = Machine()
        m.code(CODE, "8a00")
        return later(m.fault(14, CODE, error=4, cr2=NOWHERE, rax=NOWHERE), kind)

    assert only(stop("attached")).weight == "info"
    assert only(stop("deadline")).weight == "error"


def test_nested_frames_are_unwound_to_the_first() -> None:
    """A page fault, and in its handler a double fault (its own stack is used up)."""
    m = Machine()
    m.code(TEXT, "8a00")
    first = m.at_handler(14, TEXT, ring=0, error=0, cr2=NOWHERE, rax=NOWHERE)
    m.code(TEXT + 0x40, "90")
    second = m.fault(8, TEXT + 0x40, ring=0, error=0, rsp=first.rsp - 0x100, cr2=NOWHERE)
    stop = later(second)
    events = exceptions_inside(Kernel(stop), stop.cpu)
    assert [e.vector for e in events] == [8, 14]
    assert [e.rip for e in events] == [TEXT + 0x40, TEXT]
    assert events[1].cr2 == NOWHERE and events[0].cr2 is None
    assert names(stop) == ["page-fault.unmapped"]


def test_frames_that_lead_in_a_circle_end() -> None:
    m = Machine()
    m.fault(8, TEXT, ring=0, error=0, rsp=IST + 0x3F00)
    stop = m.fault(14, TEXT, ring=0, error=0, rsp=IST + 0x1F00)
    events = exceptions_inside(Kernel(later(stop)), later(stop).cpu)
    assert [e.vector for e in events] == [14, 8]


@pytest.mark.parametrize("rsp", [stack_top(1) - 0x100, IST + 0x4000, 0, 1 << 63])
def test_elsewhere_there_is_none(rsp: int) -> None:
    m = Machine()
    cpu = m.cpu(rip=TEXT, rsp=rsp, cs=8, ss=0, eflags=2)
    assert exceptions_inside(Kernel(m.stop(StopReason("attached"), cpu)), cpu) == ()


def test_an_error_code_that_cannot_be_one_is_no_frame() -> None:
    m = Machine()
    stop = m.fault(14, TEXT, ring=0, error=1 << 40, cr2=NOWHERE)
    assert exceptions_inside(Kernel(later(stop)), later(stop).cpu) == ()
