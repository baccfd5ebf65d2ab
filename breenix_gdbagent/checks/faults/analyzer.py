"""The check of faults: from the exception of a stop to the findings that explain it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.checks.faults import (
    aborts,
    double_fault,
    exceptions,
    misplaced,
    overwritten,
    page_fault,
    shutdown,
)
from breenix_gdbagent.checks.faults.cause import STALE_TLB
from breenix_gdbagent.checks.faults.defects import finding_of, handler_defect, handler_of_rip
from breenix_gdbagent.checks.faults.handled import as_handled
from breenix_gdbagent.checks.finding import Finding, NotChecked
from breenix_gdbagent.checks.reasons import FaultNotRead, NotRead
from breenix_gdbagent.checks.stack_use import OVERFLOW
from breenix_gdbagent.cpumodel.context import DF, PF, Context, Raised, vector_name
from breenix_gdbagent.cpumodel.explanation import Explanation, Observed, explain
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.event import Event, event_at_handler, faulting, outer_event
from breenix_gdbagent.kernel.inside import Inside, exceptions_inside
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.control import PagingMode

_PAST = ("marker", "exit")
"""Stops at which all that went before has gone well, or nothing is left to read."""
_UNTOLD = ("core", "attached")
"""Stops whose reason nobody told us: what led there is seen in the CPUs, or not at all."""
_DECIDED = ("panic", "deadline", "halted")
"""Stops that an exception whose handler has not ended has probably led to."""


def check(kernel: Kernel) -> Iterator[Finding]:
    """The fault of every CPU that stands at a handler's first instruction, the shutdown, or at
    another stop the exceptions that a CPU is still handling; and code and tables that are not the
    kernel's any more, where a CPU stood on them.

    Raises `NotChecked` where a fault is there and cannot be looked at, and before 64-bit paging,
    whose exceptions are not judged.
    """
    if kernel.stop.cpus and kernel.stop.cpu.arch.vector_table is not None:
        yield from aborts.check(kernel)
        return
    places = set[tuple[str, int | None]]()
    for found in _check(kernel):
        if found.code in (overwritten.OVERWRITTEN, OVERFLOW):
            place = found.code.name, found.where.pa or found.where.va
            if place in places:
                continue
            places.add(place)
        yield found


def _check(kernel: Kernel) -> Iterator[Finding]:
    if kernel.stop.reason.kind not in ("fault", "shutdown"):
        for cpu in kernel.stop.cpus:
            yield from overwritten.of_cpu(kernel, cpu)
    kind = kernel.stop.reason.kind
    if kind != "shutdown" and kernel.mode is None:
        raise NotChecked(NotRead(kernel.stop.no_paging))
    if kind == "shutdown":
        yield from shutdown.check(kernel)
    elif kind not in ("fault", *_PAST):
        doubts = []
        for cpu in kernel.stop.cpus:
            after = list(shutdown.found(kernel, cpu)) if kind in _UNTOLD else []
            if after:
                yield from after
                continue
            inside = exceptions_inside(kernel, cpu)
            found, doubt = _inside(kernel, cpu, inside)
            yield from found
            if doubt or inside.doubt:
                doubts.append(doubt or inside.doubt)
        if doubts:
            raise NotChecked(NotRead(doubts[0]))
    for cpu, vector in faulting(kernel, kernel.stop.reason):
        yield from at_handler(kernel, cpu, vector)


def _inside(kernel: Kernel, cpu: Cpu, inside: Inside) -> tuple[list[Finding], str]:
    """What a CPU is handling, the first exception of all: what followed came of it. And the return
    from a handler that failed, which did not. Else why nothing is said of what may be handled.

    A page fault that the tables do not give any more is left out, its handler may have mended it;
    so is, while the kernel may go on, what nothing accounts for.
    """
    decided = kernel.stop.reason.kind in _DECIDED or cpu.dead
    doubt = ""
    told: list[Finding] = []
    for event in reversed(inside.events):
        found, returns = _of_event(kernel, cpu, event)
        if not found or (told and not returns):
            continue
        if not decided and found[0].confidence == "possible":
            name = vector_name(event.vector)
            doubt = f"CPU {cpu.index} may be handling {name}, which nothing seen accounts for"
            continue
        told += (_told_later(f, decided) for f in found)
    return told, doubt


def _of_event(kernel: Kernel, cpu: Cpu, event: Event) -> tuple[list[Finding], bool]:
    """The findings about an exception that is being handled, and whether what it interrupted was
    the return from a handler."""
    try:
        explanation, raised = _explain(kernel, cpu, event, event.cr2)
        if event.vector == PF and raised.address is None and explanation.first is not None:
            raised = explanation.first
        came = misplaced.interrupt(kernel, event, explanation)
        if came is not None:
            found = [came, *page_fault.to_come(kernel, explanation)]
        else:
            found = [] if _unknown(raised) else list(_of_vector(kernel, explanation, raised))
    except ReadError:
        return [], False
    instruction = explanation.prediction.instruction
    returns = instruction is not None and instruction.name == "iretq"
    return [f for f in found if f.code is not STALE_TLB], returns


def _unknown(raised: Raised) -> bool:
    return raised.vector == PF and (raised.address is None or raised.error_code is None)


def _told_later(finding: Finding, decided: bool) -> Finding:
    """Found from what the handler left: said so, and where nothing shows that it ends badly, a
    fault of ring 3 is no defect yet."""
    told = replace(finding, inside_handler=True)
    if decided:
        return told
    return as_handled(told, "its handler runs at this stop")


def at_handler(kernel: Kernel, cpu: Cpu, vector: int) -> Iterator[Finding]:
    """The findings about one CPU at the first instruction of the handler of `vector`."""
    try:
        event = _event(kernel, cpu, vector)
        explanation, raised = _explain(kernel, cpu, event, cpu.get("cr2"))
        came = misplaced.interrupt(kernel, event, explanation)
        if came is not None:
            yield came
            yield from page_fault.to_come(kernel, explanation)
            return
        yield from _of_vector(kernel, explanation, raised)
        yield from _handler(kernel, explanation)
        yield from _outer(kernel, explanation)
    except ReadError as lacking:
        raise NotChecked(FaultNotRead(cpu.index, lacking.what)) from lacking


def explain_cpu(kernel: Kernel, cpu: Cpu, vector: int) -> tuple[Explanation, Raised]:
    """What came before a CPU's stop at a handler, and what was pushed. Raises `ReadError`."""
    return _explain(kernel, cpu, _event(kernel, cpu, vector), cpu.get("cr2"))


def _event(kernel: Kernel, cpu: Cpu, vector: int) -> Event:
    if cpu.root is None:
        raise ReadError(f"CR3 of CPU {cpu.index} is not known")
    return event_at_handler(cpu, vector, kernel.memory_of(cpu.root).read)


def _explain(kernel: Kernel, cpu: Cpu, event: Event, cr2: int | None) -> tuple[Explanation, Raised]:
    context = _context(kernel, event, cpu)
    observed = Observed(event.vector, event.error_code, cr2, event.entry_rsp)
    return explain(context, observed), Raised(event.vector, event.error_code, event.cr2)


def _context(kernel: Kernel, event: Event, cpu: Cpu) -> Context:
    """What `event` interrupted. Raises `ReadError` where the paging mode is not known (early boot).

    At a handler's first instruction all registers but the five of the frame are untouched.
    """
    mode, root = PagingMode.of(cpu), cpu.root
    if mode is None or root is None:
        raise ReadError("paging is off")
    frame = {"rip": event.rip, "rsp": event.rsp, "cs": event.cs, "ss": event.ss}
    registers = {**event.registers, **frame, "eflags": event.rflags}
    return Context(
        kernel.tables,
        cpu,
        root,
        mode,
        event.rip,
        event.cs,
        event.rflags,
        event.rsp,
        event.ss,
        registers,
        served=shutdown.served(kernel, cpu),
    )


def _of_vector(kernel: Kernel, explanation: Explanation, raised: Raised) -> Iterator[Finding]:
    yield from overwritten.of_context(kernel, explanation.context)
    if raised.vector == PF:
        yield from page_fault.check(kernel, explanation, raised)
    elif raised.vector == DF:
        yield from double_fault.check(kernel, explanation)
    else:
        yield from exceptions.check(kernel, explanation, raised)


def _handler(kernel: Kernel, explanation: Explanation) -> Iterator[Finding]:
    """The handler that is about to run cannot be fetched: the next fault is certain."""
    course = explanation.course
    if course is None:
        return
    defect = handler_defect(kernel, explanation.context, course.last)
    if defect is not None:
        yield finding_of(kernel, explanation.context, defect)


def _outer(kernel: Kernel, explanation: Explanation) -> Iterator[Finding]:
    """What faulted was the fetch of another exception's handler: that exception too, from the
    frame that its delivery left on the interrupted stack. CR2 has been overwritten since."""
    context = explanation.context
    defect = handler_of_rip(kernel, context)
    if defect is None:
        return
    if explanation.observed.vector not in (PF, DF):
        yield finding_of(kernel, context, defect)
    event = outer_event(kernel, context.cpu, context.rip, context.rsp, context.registers)
    if event is None:
        return
    outer, raised = _explain(kernel, context.cpu, event, None)
    if event.vector == PF and outer.first is not None:
        raised = outer.first
    if event.vector != PF or raised.address is not None:
        yield from _of_vector(kernel, outer, raised)
