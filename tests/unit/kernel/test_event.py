"""Which stops are faults: frames at a handler's first instruction, cores without a reason."""

from __future__ import annotations

import pytest

from breenix_gdbagent.kernel.event import infer_reason
from breenix_gdbagent.kernel.reason import with_reason
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop, StopReason
from tests.writers.machine import CODE, DATA, HEAP, IST, TEXT, Machine, handler, stack_top


def bare(stop: Stop) -> Stop:
    """The same stop as a bare core has it: nobody says why."""
    return stop._replace(reason=StopReason("core"))


@pytest.mark.parametrize(
    ("vector", "ring"), [(14, 3), (14, 0), (13, 3), (13, 0), (8, 3), (6, 3), (6, 0), (0, 0)]
)
def test_a_core_at_the_first_instruction_of_a_handler(vector: int, ring: int) -> None:
    m = Machine()
    rip = CODE if ring == 3 else TEXT
    stop = with_reason(bare(m.fault(vector, rip, ring=ring, error=4, cr2=DATA)))
    assert stop.reason == StopReason("fault", 0, vector)
    event = Kernel(stop).event
    assert event is not None
    assert (event.vector, event.rip, event.cpl) == (vector, rip, ring)
    assert event.error_code == (4 if vector in (8, 13, 14) else None)
    assert event.cr2 == (DATA if vector == 14 else None), "else it is stale"
    assert event.registers["gs_base"] and "rip" not in event.registers


@pytest.mark.parametrize("vector", [1, 3, 32, 0x80])
def test_interrupts_and_breakpoints_are_no_faults(vector: int) -> None:
    m = Machine()
    assert infer_reason(Kernel(bare(m.fault(vector, CODE)))) is None


def test_a_core_elsewhere_keeps_its_reason() -> None:
    m = Machine()
    stop = bare(m.fault(14, CODE, error=4))
    cpu = m.cpu(rip=handler(14) + 1, rsp=stop.cpu.rsp, cs=8, ss=0, eflags=0x46)
    assert with_reason(stop._replace(cpus=(cpu,))).reason.kind == "core"
    assert with_reason(stop._replace(cpus=())).reason.kind == "core"
    marker = stop._replace(reason=StopReason("marker"))
    assert with_reason(marker) is marker


@pytest.mark.parametrize("change", ["rflags", "cs", "place"])
def test_mutations_of_the_frame(change: str) -> None:
    """Without a frame that the delivery would have left, standing there proves nothing."""
    m = Machine()
    rflags = 0 if change == "rflags" else 0x202
    stop = m.fault(
        14, CODE, error=4, rflags=rflags, stack=IST + 0x2000 if change == "place" else None
    )
    if change == "cs":
        stop.memory.frames[m.entry(m.leaf(IST + 0x3000)) & 0xF_FFFF_F000][0xFE0] = 0  # type: ignore[attr-defined]
    assert infer_reason(Kernel(bare(stop))) is None


def test_the_other_cpu_is_found() -> None:
    m = Machine()
    idle = m.cpu(0, rip=TEXT, rsp=stack_top(0), cs=8, ss=0, eflags=0x46)
    faulting = m.at_handler(13, CODE, error=0, index=1)
    stop = with_reason(m.stop(StopReason("core"), idle, faulting))
    assert stop.reason == StopReason("fault", 1, 13)


def test_a_frame_that_cannot_be_read() -> None:
    m = Machine()
    stop = m.fault(14, CODE, error=4)
    cpu = stop.cpu._replace(registers={**stop.cpu.registers, "rsp": HEAP + 0x9000})
    assert infer_reason(Kernel(bare(stop._replace(cpus=(cpu,))))) is None
