"""The exceptions whose handlers a CPU is inside of: found by the frames they left on its stacks.

At a handler's first instruction `event_at_handler` reads the frame where RSP says. Later RSP has
moved, but the frame lies where the delivery put it: at the top of the gate's IST stack, at RSP0, or
just below the RSP that was interrupted (SDM vol. 3, 6.14.2 and 6.14.5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import VirtAddr, hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.event import Event, event_of_frame, stack_tops
from breenix_gdbagent.kernel.frame_search import Found, frames_above, with_cr2
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.exceptions import ERROR_CODE_SIZE, FRAME, read_frame
from breenix_gdbagent.x86.vectors import ORDINARY_VECTORS, WITH_ERROR_CODE

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.backtrace import Backtrace

MOST = 16
"""Nested exceptions that are followed: frames that lead in a circle end there."""


@dataclass(frozen=True, slots=True)
class Inside:
    """The exceptions that a CPU is handling, innermost first; `doubt` says why there may be another
    that was not found, empty where there is none."""

    events: tuple[Event, ...] = ()
    doubt: str = ""


def exceptions_inside(kernel: Kernel, cpu: Cpu) -> Inside:
    """What `cpu` is handling; nothing for ordinary code.

    By unwinding where the kernel's ELF is known and the calls are known to their beginning; else by
    the frames themselves, wherever on the CPU's stacks they lie, and by the stacks of the IST. CR2
    is given to the innermost #PF only: it may be stale for any other.
    """
    if cpu.cpl != 0 or cpu.paging is None or cpu.root is None or cpu.stack is None:
        return Inside()
    trace = _trace(kernel, cpu)
    unwound = [] if trace is None else list(_by_unwinding(kernel, cpu, trace))
    if trace is not None and _tells_all(trace):
        # Where the calls come to a beginning there is nothing else; an end at the top of a stack
        # may be the frame of a gate that the unwinder does not know.
        found = unwound or (list(_by_ist(kernel, cpu)) if trace.unreadable is not None else [])
        return Inside(with_cr2(found, cpu.get("cr2")))
    frames = list(frames_above(kernel, cpu, _known(trace)))
    searched = [f.event for f in frames if f.event is not None]
    found = _joined(unwound, searched) or list(_by_ist(kernel, cpu))
    return Inside(with_cr2(found, cpu.get("cr2")), "" if found else _doubt(cpu, frames))


def _known(trace: Backtrace | None) -> int:
    """How far up the stack is accounted for by calls; 0 where none was unwound."""
    last = None if trace is None else trace.frames[-1]
    return 0 if last is None or last.ring else int(last.sp)


def _joined(unwound: list[Event], searched: list[Event]) -> list[Event]:
    """Both, the longer way out; what unwinding knows of registers is kept."""
    if len(searched) <= len(unwound):
        return unwound
    known = {event.frame_at: event for event in unwound}
    return [known.get(event.frame_at, event) for event in searched]


def _tells_all(trace: Backtrace) -> bool:
    """Whether every gate that the CPU came through is known by its vector."""
    return trace.whole and not any(
        frame.how == "interrupt-frame" and frame.vector is None for frame in trace.frames
    )


def _doubt(cpu: Cpu, frames: list[Found]) -> str:
    """Why a CPU may be handling what was not found."""
    unknown = next((f for f in frames if f.vector is None), None)
    if unknown is not None:
        return (
            f"CPU {cpu.index} may be handling something: at {hex64(unknown.at)} lies a frame that "
            f"interrupted {hex64(unknown.frame.rip)}, and which gate it came through is not seen"
        )
    if not frames and cpu.dead:
        return (
            f"CPU {cpu.index} halts with interrupts off, and what led there is not found: no frame "
            "of an exception is on its stacks"
        )
    return ""


def _is_exception(vector: int | None) -> bool:
    return vector is not None and vector < 32 and vector not in ORDINARY_VECTORS


def _trace(kernel: Kernel, cpu: Cpu) -> Backtrace | None:
    from breenix_gdbagent.kernel.trace import of_cpu

    if kernel.stop.image is None or cpu.at is None:
        return None
    try:
        return of_cpu(kernel, cpu)
    except ReadError:
        return None


def _by_unwinding(kernel: Kernel, cpu: Cpu, trace: Backtrace) -> Iterator[Event]:
    for frame in trace.frames:
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
        if event is None or event.frame_at < rsp:
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
