"""The exceptions whose handlers a CPU is inside of: found again by the frames they left.

At a handler's first instruction `event_at_handler` reads the frame where RSP says. Later RSP has
moved, but the frame lies where the delivery put it: at the top of the gate's IST stack, at RSP0, or
just below the RSP that was interrupted (SDM vol. 3, 6.14.2 and 6.14.5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.event import PAGE_FAULT, Event, event_of_frame, stack_tops
from breenix_gdbagent.kernel.layout import ORDINARY_VECTORS
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.cpu import Cpu
from breenix_gdbagent.x86.exceptions import ERROR_CODE_SIZE, FRAME, read_frame
from breenix_gdbagent.x86.vectors import WITH_ERROR_CODE

MOST = 16
"""Nested exceptions that are followed: frames that lead in a circle end there."""


def exceptions_inside(kernel: Kernel, cpu: Cpu) -> tuple[Event, ...]:
    """The exceptions that `cpu` is handling, innermost first; none for ordinary code.

    By unwinding where the kernel's ELF is known, else by the stacks of the IST alone (Breenix: #DF
    and #PF). CR2 is given to the innermost #PF only: it may be stale for any other.
    """
    if cpu.cpl != 0 or cpu.paging is None or cpu.root is None or cpu.get("rsp") is None:
        return ()
    found = list(_by_unwinding(kernel, cpu)) or list(_by_ist(kernel, cpu))
    cr2 = cpu.get("cr2")
    for index, event in enumerate(found):
        if event.vector == PAGE_FAULT and cr2 is not None:
            found[index] = replace(event, cr2=VirtAddr(cr2))
            break
    return tuple(found)


def _is_exception(vector: int | None) -> bool:
    return vector is not None and vector < 32 and vector not in ORDINARY_VECTORS


def _by_unwinding(kernel: Kernel, cpu: Cpu) -> Iterator[Event]:
    from breenix_gdbagent.kernel.trace import of_cpu

    if kernel.stop.image is None or cpu.get("rip") is None:
        return
    try:
        frames = of_cpu(kernel, cpu).frames
    except ReadError:
        return
    for frame in frames:
        if frame.vector is not None and _is_exception(frame.vector):
            event = _left_on_a_stack(kernel, cpu, frame.vector, frame.pc, frame.sp, frame.ring)
            if event is not None:
                yield replace(event, registers=dict(frame.registers))


def _left_on_a_stack(
    kernel: Kernel, cpu: Cpu, vector: int, rip: int, rsp: int, ring: int
) -> Event | None:
    """The event of that vector which interrupted `rip` and `rsp`, read from its frame."""
    there = Event(vector, None, VirtAddr(rip), ring, 0, VirtAddr(rsp), 0, VirtAddr(0), inside=True)
    for top in stack_tops(kernel, cpu, there):
        event = _frame_below(kernel, cpu, vector, top)
        if event is not None and (event.rip, event.rsp) == (rip, rsp):
            return event
    return None


def _by_ist(kernel: Kernel, cpu: Cpu) -> Iterator[Event]:
    """From IST stack to interrupted RSP, as long as that is on an IST stack too."""
    rsp: int = cpu.rsp
    seen = set[int]()
    while len(seen) < MOST:
        stack = kernel.stack_at(rsp)
        if stack is None or stack.ist is None or stack.top in seen:
            return
        seen.add(stack.top)
        vectors = [v for v, g in kernel.gates.items() if g.ist == stack.ist and _is_exception(v)]
        event = _frame_below(kernel, cpu, vectors[0], stack.top) if len(vectors) == 1 else None
        if event is None:
            return
        yield event
        if event.cpl:
            return
        rsp = event.rsp


def _frame_below(kernel: Kernel, cpu: Cpu, vector: int, top: int) -> Event | None:
    """The frame that ends at `top`, with the error code below it; None where there is none."""
    assert cpu.root is not None
    at = (top & -16) - FRAME.size - (ERROR_CODE_SIZE if vector in WITH_ERROR_CODE else 0)
    try:
        frame = read_frame(kernel.memory_of(cpu.root).read, at, vector)
    except ReadError:
        return None
    if not frame.clean or not frame.plausible(kernel.levels):
        return None
    return replace(event_of_frame(vector, frame, at), inside=True)
