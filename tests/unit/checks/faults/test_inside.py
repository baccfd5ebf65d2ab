"""Stops inside a handler: the exception found again by the frame that it left."""

from __future__ import annotations

import pytest

from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.kernel.inside import exceptions_inside
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop, StopReason
from tests.said import evidence
from tests.unit.checks.faults.stops import found, names, only
from tests.writers.machine import CODE, IST, TEXT, USER_STACK, Machine, handler, stack_top

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
    assert (finding.code.name, finding.effective_severity) == ("page-fault.unmapped", "error")
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

    assert only(stop("attached")).effective_severity == "info"
    assert only(stop("deadline")).effective_severity == "error"


def test_nested_frames_are_unwound_to_the_first() -> None:
    """A page fault, and in its handler a double fault (its own stack is used up)."""
    m = Machine()
    m.code(TEXT, "8a00")
    first = m.at_handler(14, TEXT, ring=0, error=0, cr2=NOWHERE, rax=NOWHERE)
    m.code(TEXT + 0x40, "90")
    second = m.fault(8, TEXT + 0x40, ring=0, error=0, rsp=first.rsp - 0x100, cr2=NOWHERE)
    stop = later(second)
    events = exceptions_inside(Kernel(stop), stop.cpu).events
    assert [e.vector for e in events] == [8, 14]
    assert [e.rip for e in events] == [TEXT + 0x40, TEXT]
    assert events[1].cr2 == NOWHERE and events[0].cr2 is None
    assert names(stop) == ["page-fault.unmapped"]


def test_frames_that_lead_in_a_circle_end() -> None:
    m = Machine()
    m.fault(8, TEXT, ring=0, error=0, rsp=IST + 0x3F00)
    stop = m.fault(14, TEXT, ring=0, error=0, rsp=IST + 0x1F00)
    events = exceptions_inside(Kernel(later(stop)), later(stop).cpu).events
    assert [e.vector for e in events] == [14, 8]


@pytest.mark.parametrize("rsp", [stack_top(1) - 0x100, IST + 0x4000, 0, 1 << 63])
def test_elsewhere_there_is_none(rsp: int) -> None:
    m = Machine()
    cpu = m.cpu(rip=TEXT, rsp=rsp, cs=8, ss=0, eflags=2)
    assert exceptions_inside(Kernel(m.stop(StopReason("attached"), cpu)), cpu).events == ()


def test_an_error_code_that_cannot_be_one_is_no_frame() -> None:
    m = Machine()
    stop = m.fault(14, TEXT, ring=0, error=1 << 40, cr2=NOWHERE)
    assert exceptions_inside(Kernel(later(stop)), later(stop).cpu).events == ()


# Entry code written by hand: no IST, no call-frame information, no ELF. -----------------------

STUB, COMMON, BODY = TEXT + 0x2000, TEXT + 0x2800, TEXT + 0x2900
ON_OWN_STACK = stack_top(1) - 0x800
SAVES, CALLS = "50515257", "e8"
"""push rax, rcx, rdx, rdi; call rel32."""


def stubs(m: Machine) -> None:
    """Gates as most kernels have them: a stub a vector pushes its number (and 0 where the CPU does
    not push a code), and jumps to code that is common to all, that of page faults included."""
    for vector in (0, 6, 8, 13, 14, 32):
        at = STUB + 16 * vector
        m.gate(vector, at)
        code = b"" if vector in (8, 13, 14) else b"\x6a\x00"
        code += bytes([0x6A, vector, 0xE9])
        m.code(at, (code + (COMMON - at - len(code) - 4).to_bytes(4, "little", signed=True)).hex())
    call = COMMON + 4
    m.code(COMMON, SAVES + CALLS + (BODY - call - 5).to_bytes(4, "little").hex())


def standing(m: Machine, vector: int, *, ring: int = 0, error: int | None = None, cr2: int = 0,
             pushed: bool = True, flags: int = 0x46) -> Stop:  # fmt: skip
    """A CPU that halts in the body of the handler of `vector`, which a delivery to its gate and the
    code of `stubs` have led to. Not `pushed`: an interrupt came at that vector."""
    rip, cs, ss = (CODE, 0x33, 0x2B) if ring else (TEXT, 8, 0x10)
    rsp = USER_STACK + 0xFF0 if ring else ON_OWN_STACK
    top = stack_top(1) if ring else rsp
    words = [ss, rsp, 0x202, cs, rip]
    if vector in (8, 13, 14) and pushed:
        words.append(error or 0)
    elif vector not in (8, 13, 14):
        words.append(0)
    words += [vector, 7, 7, 7, 7, COMMON + 4 + 5]
    at = top - 8 * len(words)
    m.write(at, b"".join(word.to_bytes(8, "little") for word in reversed(words)))
    cpu = m.cpu(rip=BODY + 8, rsp=at - 0x40, cs=8, ss=0x10, eflags=flags, cr2=cr2)
    return m.stop(StopReason("attached"), cpu._replace(halted=not flags & 0x200))


def test_hand_written_entries_without_ist_are_followed() -> None:
    m = Machine()
    stubs(m)
    m.code(TEXT, "8a00")
    finding = only(standing(m, 14, error=0, cr2=NOWHERE))
    assert (finding.code.name, finding.where.va) == ("page-fault.unmapped", NOWHERE)
    assert evidence(finding)["seen"] == "inside its handler"


def test_a_program_whose_fault_killed_the_kernel_is_an_error() -> None:
    """The frame lies at RSP0, and a handler that halts with interrupts off has not answered it."""
    m = Machine()
    stubs(m)
    m.code(CODE, "8a00")
    finding = only(standing(m, 14, ring=3, error=4, cr2=NOWHERE))
    assert (finding.code.name, finding.effective_severity) == ("page-fault.unmapped", "error")


@pytest.mark.parametrize(("vector", "code", "name"), [(6, "0f0b", "invalid-opcode")])
def test_an_exception_without_an_error_code(vector: int, code: str, name: str) -> None:
    m = Machine()
    stubs(m)
    m.code(TEXT, code)
    assert names(standing(m, vector)) == [name]


def test_an_interrupt_that_is_being_handled_is_no_exception() -> None:
    m = Machine()
    stubs(m)
    stop = standing(m, 32)
    inside = exceptions_inside(Kernel(stop), stop.cpu)
    assert (inside.events, inside.doubt) == ((), "")


def test_a_stack_that_has_another_number_was_left_by_another_gate() -> None:
    """The frame of a page fault whose stub's number was overwritten: which gate it came through is
    not known, unless the tables refuse what CR2 has with that very error code."""
    m = Machine()
    stubs(m)
    m.code(TEXT, "8a00")
    stop = standing(m, 14, error=0, cr2=NOWHERE)
    m.write(ON_OWN_STACK - 7 * 8, b"\x63")
    stop = stop._replace(memory=m.memory())
    inside = exceptions_inside(Kernel(stop), stop.cpu)
    assert inside.events == () and "which gate it came through is not seen" in inside.doubt
    with pytest.raises(NotChecked, match="lies a frame that interrupted"):
        found(stop)


def test_a_cpu_that_is_dead_for_no_reason_that_is_seen_is_not_passed() -> None:
    m = Machine()
    cpu = m.cpu(rip=TEXT, rsp=stack_top(1) - 0x100, cs=8, ss=0, eflags=2)._replace(halted=True)
    with pytest.raises(NotChecked, match="halts with interrupts off"):
        found(m.stop(StopReason("attached"), cpu))
    awake = cpu._replace(registers={**cpu.registers, "eflags": 0x202})
    assert found(m.stop(StopReason("attached"), awake)) == []


def test_a_program_in_a_system_call_left_no_frame_of_an_exception() -> None:
    """What `syscall` entries push for iretq lies at RSP0 too: nothing vouches for a fault."""
    m = Machine()
    stubs(m)
    words = (CODE, 0x33, 0x202, USER_STACK + 0xFF0, 0x2B)
    m.write(stack_top(1) - 40, b"".join(word.to_bytes(8, "little") for word in words))
    cpu = m.cpu(rip=BODY, rsp=stack_top(1) - 0x100, cs=8, ss=0x10, eflags=0x202)
    assert found(m.stop(StopReason("attached"), cpu)) == []
