"""Double and triple faults: the chain that must have happened, and what it rests on.

At a #DF handler the frame has RIP and RSP of the first fault, and CR2 the last failed access. A CPU
paused after a triple fault has RIP and RSP of the first fault, because no delivery was completed,
and CR2 of the last failed push. Read as one fault they contradict each other; played forward from
the first, candidate by candidate, they give the chain back (`explanation.explain`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, SPREAD, Facts
from breenix_gdbagent.checks.faults import exceptions, page_fault
from breenix_gdbagent.checks.faults.address_kind import AddressKind, kind_of
from breenix_gdbagent.checks.faults.defects import (
    Defect,
    defects_of,
    finding_of,
    handler_of_rip,
    implicit_defect,
    on_boot_tables,
    only_worse,
)
from breenix_gdbagent.checks.faults.interrupted import (
    FaultFacts,
    Hints,
    hints,
    interrupted,
    subject,
)
from breenix_gdbagent.checks.faults.overrun import kind_under
from breenix_gdbagent.checks.finding import Code, Finding, Where, declare
from breenix_gdbagent.checks.spaces import BOOTLOADER
from breenix_gdbagent.cpumodel.context import DF, PF, Context, Raised
from breenix_gdbagent.cpumodel.delivery import Course
from breenix_gdbagent.cpumodel.explanation import Explanation
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel

DOUBLE_FAULT = declare(
    "double-fault",
    "error",
    "an exception could not be delivered",
    arises="Delivering the first exception raised a second that does not go together with it: the "
    "stack that the frame was to be pushed onto is not mapped, or the vector has no gate.",
    confirm="The frame at the #DF handler is that of the first fault; pt walk RSP, RSP0-8 and each "
    "IST top-8 under CR3.",
    mend="Mend the cause, which is a finding of its own.",
    kind="event",
)
TRIPLE_FAULT = declare(
    "triple-fault",
    "error",
    "the CPU shut down: not even the double fault could be delivered",
    arises="The #DF stack is not mapped under CR3 either, or IDT, GDT or TSS are out of reach: a "
    "CR3 that lacks the kernel. QEMU would reset; ours is paused, with the registers of the first "
    "fault.",
    confirm="RIP and RSP are of the first fault and CR2 of the last failed push: pt walk each.",
    mend="Mend the cause, which is a finding of its own.",
    kind="event",
)


class Cr2Is(Enum):
    """What CR2 is of, in a chain of faults."""

    LAST_OF_ALL = "the last page fault, whichever that was: the chain is not known"
    STALE = "none of this chain"
    FIRST = "the first fault"
    ON_THE_WAY = "an access that failed on the way"


@dataclass(frozen=True, slots=True)
class Push:
    """What the first push onto a stack comes to: it is `refused`, or the tables in the way are
    `lacking`, else it can be made."""

    refused: Raised | None = None
    lacking: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRow(Facts):
    """A stack that a delivery may have needed."""

    stack: str
    top: VirtAddr
    push: Push
    is_: AddressKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFacts(FaultFacts):
    """A double or triple fault; `course` is the chain of deliveries, None where it is not known,
    and `defects` what they failed on."""

    first: Raised | None
    cr2: VirtAddr | None
    cr2_is: Cr2Is
    stacks: tuple[StackRow, ...]
    hints: Annotated[Hints, SPREAD]
    course: Annotated[Course | None, ASIDE]
    defects: Annotated[tuple[Defect, ...], ASIDE]
    doubt: Annotated[str, ASIDE]
    resets: Annotated[int | None, IF_KNOWN]


def check(kernel: Kernel, explanation: Explanation) -> Iterator[Finding]:
    """The findings about a double or triple fault: itself, the exception that it began with, and
    everything that the chain rests on."""
    context, course = explanation.context, explanation.course
    code = DOUBLE_FAULT if explanation.observed.vector == DF else TRIPLE_FAULT
    if course is None:
        yield _finding(kernel, explanation, code, (), None, ())
        return
    defects = _at_first(kernel, explanation, course)
    defects += tuple(
        d
        for d in defects_of(kernel, context, course)
        if all((d.code, d.subject) != (o.code, o.subject) for o in defects)
    )
    if (handler := handler_of_rip(kernel, context)) is not None:
        defects = (handler, *defects)
    behind = tuple(finding_of(kernel, context, d) for d in defects)
    first = _first(kernel, explanation, course, defects, behind)
    if first is not None:
        behind = (first, *(f for f in behind if f.code is not first.code))
    yield _finding(kernel, explanation, code, defects, first, behind)
    yield from behind


def _at_first(kernel: Kernel, explanation: Explanation, course: Course) -> tuple[Defect, ...]:
    """The descriptor table that the very first access of the CPU's own did not find."""
    first, context = course.first, explanation.context
    if first.vector != PF or first.address is None or not first.own:
        return ()
    kind = kind_of(kernel, first.address, context.root)
    found = implicit_defect(kernel, context, first, kind)
    return () if found is None else (found,)


def _first(
    kernel: Kernel,
    explanation: Explanation,
    course: Course,
    defects: Sequence[Defect],
    behind: tuple[Finding, ...],
) -> Finding | None:
    """The first event as a finding of its own, None for one that is no fault of the program: an
    interrupt, or an access to a descriptor table that is not there."""
    first = course.first
    if first.origin != "exception" or _at_first(kernel, explanation, course):
        return None
    if first.vector != PF:
        defect = defects[0] if defects else None
        return exceptions.finding(kernel, explanation, first, defect, behind=behind)
    if first.address is None or first.error_code is None:
        return None
    try:
        return page_fault.finding(page_fault.page_fault(kernel, explanation, first))
    except ReadError:
        return None


def cause_of(
    kernel: Kernel, context: Context, defects: Sequence[Defect], first: Finding | None
) -> str | None:
    """The code of the root cause: the CR3 under which stacks are missing that the master has, else
    the stack or handler that the first delivery failed on, else the first fault itself: that no
    gate or no IDT took it made it worse, and is not why it came."""
    if defects and on_boot_tables(kernel, context):
        return BOOTLOADER.name
    if defects and (first is None or first.cause is not None or not only_worse(defects[0])):
        return defects[0].code.name
    return first.code.name if first is not None else None


def _finding(
    kernel: Kernel,
    explanation: Explanation,
    code: Code,
    defects: Sequence[Defect],
    first: Finding | None,
    behind: tuple[Finding, ...],
) -> Finding:
    context, course = explanation.context, explanation.course
    cr2, cause = explanation.observed.cr2, cause_of(kernel, context, defects, first)
    facts = ChainFacts(
        at=interrupted(kernel, context, explanation.prediction.instruction),
        first=course.first if course is not None else None,
        cr2=None if cr2 is None else VirtAddr(cr2),
        cr2_is=_cr2_is(course),
        stacks=_stacks(kernel, context),
        hints=hints(kernel, context),
        course=course,
        defects=tuple(defects),
        doubt=explanation.doubt,
        resets=kernel.stop.reason.resets or None,
    )
    return Finding(
        code,
        subject(kernel, context),
        facts,
        Where(root=context.root, va=course.cr2 if course is not None else cr2),
        cause=cause,
        because=tuple(sorted(behind, key=lambda f: f.code.name != cause)),
        chain=explanation.chain or (code.title,),
        confidence=explanation.confidence,
        mend=_mend(cause, defects, first),
        advice=next((f.advice for f in behind if f.code.name == cause), ""),
    )


def _mend(cause: str | None, defects: Sequence[Defect], first: Finding | None) -> Code | None:
    """The code whose fix mends the root cause."""
    if first is not None and first.code.name == cause:
        return first.mend or first.code
    return defects[0].code if defects else None


def _cr2_is(course: Course | None) -> Cr2Is:
    if course is None:
        return Cr2Is.LAST_OF_ALL
    if course.cr2 is None:
        return Cr2Is.STALE
    first = course.first.address == course.cr2 and course.first.vector == PF
    return Cr2Is.FIRST if first else Cr2Is.ON_THE_WAY


def _stacks(kernel: Kernel, context: Context) -> tuple[StackRow, ...]:
    """Every stack that a delivery may have needed, and whether its first push could be made."""
    tops = {"RSP": context.rsp & -16}
    tss = kernel.tss.get(context.cpu.index)
    if tss is not None:
        tops |= {"RSP0": tss.rsp0} | {f"IST{i}": t for i, t in enumerate(tss.ist, 1) if t}
    rows: list[StackRow] = []
    for name, top in tops.items():
        at_push = top - 8 & (1 << 64) - 1
        try:
            push = Push(context.page_fault(at_push, 8, "write", user=False))
        except ReadError as lacking:
            push = Push(lacking=lacking.what)
        kind = (
            kind_under(kernel, context, at_push)
            if name == "RSP"
            else kind_of(kernel, at_push, context.root)
        )
        rows.append(StackRow(stack=name, top=VirtAddr(top), push=push, is_=kind))
    return tuple(rows)
