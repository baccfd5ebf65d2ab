"""Double and triple faults: the chain that must have happened, and what it rests on.

At a #DF handler the frame has RIP and RSP of the first fault, and CR2 the last failed access. A CPU
paused after a triple fault has RIP and RSP of the first fault, because no delivery was completed,
and CR2 of the last failed push. Read as one fault they contradict each other; played forward from
the first, candidate by candidate, they give the chain back (`explanation.explain`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.faults import address_kind as kinds
from breenix_gdbagent.checks.faults import exceptions, page_fault
from breenix_gdbagent.checks.faults.address_kind import kind_of
from breenix_gdbagent.checks.faults.defects import (
    Defect,
    defects_of,
    findings_of,
    handler_of_rip,
    on_boot_tables,
)
from breenix_gdbagent.checks.faults.wording import at, facts, hints, sentence, subject, who
from breenix_gdbagent.checks.finding import Code, Finding, Where, declare
from breenix_gdbagent.checks.prose import Prose
from breenix_gdbagent.checks.spaces import BOOTLOADER
from breenix_gdbagent.cpumodel.context import DF, PF, Context
from breenix_gdbagent.cpumodel.delivery import Course
from breenix_gdbagent.cpumodel.explanation import Explanation
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel

_IDT = "kernel/src/interrupts.rs"

DOUBLE_FAULT = declare(
    "double-fault",
    "error",
    "an exception could not be delivered",
    arises="Delivering the first exception raised a second that does not go together with it: the "
    "stack that the frame was to be pushed onto is not mapped (Breenix d90ed3bd: int 0x80 under a "
    "process PML4 without the kernel stack), or the vector has no gate.",
    confirm="The frame at the #DF handler is that of the first fault; pt walk RSP, RSP0-8 and each "
    "IST top-8 under CR3.",
    mend="Mend the cause, which is a finding of its own.",
    kind="event",
    see=(_IDT, "kernel/src/gdt.rs"),
)
TRIPLE_FAULT = declare(
    "triple-fault",
    "error",
    "the CPU shut down: not even the double fault could be delivered",
    arises="The #DF stack (IST1) is not mapped under CR3 either, or IDT, GDT or TSS are out of "
    "reach: a CR3 that lacks the kernel (Breenix c0d51521: the bootloader's PML4 loaded on the way "
    "to idle). QEMU would reset; ours is paused, with the registers of the first fault.",
    confirm="RIP and RSP are of the first fault and CR2 of the last failed push: pt walk each.",
    mend="Mend the cause, which is a finding of its own.",
    kind="event",
    see=(_IDT, "kernel/src/interrupts/context_switch.rs", "kernel/src/memory/per_cpu_stack.rs"),
)


def check(kernel: Kernel, explanation: Explanation) -> Iterator[Finding]:
    """The findings about a double or triple fault: itself, the exception that it began with, and
    everything that the chain rests on."""
    context, course = explanation.context, explanation.course
    code = DOUBLE_FAULT if explanation.observed.vector == DF else TRIPLE_FAULT
    if course is None:
        yield _finding(kernel, explanation, code, (), None)
        return
    defects = defects_of(kernel, context, course)
    if (handler := handler_of_rip(kernel, context)) is not None:
        defects = (handler, *defects)
    first = _first(kernel, explanation, course, defects)
    told = {first.code.name} if first is not None else set[str]()
    yield _finding(kernel, explanation, code, defects, first)
    if first is not None:
        yield first
    yield from findings_of(kernel, context, tuple(d for d in defects if d.code.name not in told))


def _first(
    kernel: Kernel, explanation: Explanation, course: Course, defects: Sequence[Defect]
) -> Finding | None:
    """The first event as a finding of its own, None for one that is no fault of the program: an
    interrupt, or an access to a descriptor table on the CPU's own account."""
    first, context = course.first, explanation.context
    if first.origin != "exception":
        return None
    if first.vector != PF:
        return exceptions.finding(kernel, explanation, first, defects[0] if defects else None)
    if first.address is None or first.error_code is None:
        return None
    if kind_of(kernel, first.address, context.root).name in kinds.TABLES and defects:
        return None
    try:
        return page_fault.finding(page_fault.page_fault(kernel, explanation, first))
    except ReadError:
        return None


def cause_of(
    kernel: Kernel, context: Context, defects: Sequence[Defect], first: Finding | None
) -> str | None:
    """The code of the root cause: the CR3 under which stacks are missing that the master has, else
    what the first delivery failed on, else the first fault itself."""
    if defects and on_boot_tables(kernel, context):
        return BOOTLOADER.name
    if defects:
        return defects[0].code.name
    return first.code.name if first is not None else None


def _finding(
    kernel: Kernel,
    explanation: Explanation,
    code: Code,
    defects: Sequence[Defect],
    first: Finding | None,
) -> Finding:
    context, course = explanation.context, explanation.course
    instruction = explanation.prediction.instruction
    cr2 = explanation.observed.cr2
    evidence: dict[str, Json] = {
        "explanation": _story(kernel, explanation, code, defects),
        **facts(kernel, context, instruction),
        "first": course.first.text if course is not None else None,
        "cr2": hex64(cr2) if cr2 is not None else None,
        "cr2_is": _cr2_is(course),
        "stacks": _stacks(kernel, context),
        **hints(kernel, context),
    }
    return Finding(
        code,
        subject(kernel, context),
        Prose(_summary(kernel, context, code, course, defects), evidence),
        Where(root=context.root, va=course.cr2 if course is not None else cr2),
        cause=cause_of(kernel, context, defects, first),
        chain=explanation.chain or (code.title,),
        confidence=explanation.confidence,
        mend=defects[0].code if defects else None,
    )


def _summary(
    kernel: Kernel, context: Context, code: Code, course: Course | None, defects: Sequence[Defect]
) -> str:
    what = "double fault" if code is DOUBLE_FAULT else "triple fault"
    place = f"in {who(kernel, context)} at {at(kernel, context)}"
    if course is None:
        return f"{what} {place}; what it began with could not be found"
    why = (
        defects[0].said if defects else course.attempts[0].raised and course.attempts[0].raised.why
    )
    return f"{what} {place}: {course.first.text} could not be delivered, because {why}"


def _cr2_is(course: Course | None) -> str:
    if course is None:
        return "of the last page fault, whichever that was"
    if course.cr2 is None:
        return "stale: no page fault in this chain"
    if course.first.address == course.cr2 and course.first.vector == PF:
        return "the address of the first fault"
    return "the last access that failed on the way, not the address of the first fault"


def _story(kernel: Kernel, explanation: Explanation, code: Code, defects: Sequence[Defect]) -> str:
    context, course = explanation.context, explanation.course
    if course is None:
        gap = explanation.doubt or "nothing that the instruction or an interrupt raises ends so"
        return sentence(
            f"The CPU ended in a {code.name.replace('-', ' ')} while {who(kernel, context)} was at "
            f"{at(kernel, context)}.",
            f"How it began could not be found: {gap}.",
            "The stacks that it may have needed are listed with what is mapped there.",
        )
    instruction, first = explanation.prediction.instruction, course.first
    ran = f"`{instruction.text}`, " if instruction is not None else ""
    why = f": {first.why}" if first.why else ""
    said = [
        f"{who(kernel, context)} was at {ran}{at(kernel, context)}, when {first.text} came{why}."
    ]
    for attempt in course.attempts:
        if attempt.raised is not None:
            said.append(
                f"Delivering {attempt.event.text} failed: {attempt.raised.why}, which raises "
                f"{attempt.raised.text}."
            )
    said.append(
        "that is more than one double fault can hold, so the CPU shut down; RIP and RSP are still "
        "those of the first fault, because no delivery was completed."
        if course.end == "shutdown"
        else "the double fault itself was delivered; its frame has RIP and RSP of the first fault."
    )
    if len(defects) > 1:
        said.append(f"The chain rests on this: {'; '.join(d.said for d in defects)}.")
    said.append(f"CR2 is {_cr2_is(course)}.")
    if explanation.doubt:
        said.append(f"Not proved: {explanation.doubt}.")
    return sentence(*said)


def _stacks(kernel: Kernel, context: Context) -> list[Json]:
    """Every stack that a delivery may have needed, and whether its first push could be made."""
    tops = {"RSP": context.rsp & -16}
    tss = kernel.tss.get(context.cpu.index)
    if tss is not None:
        tops |= {"RSP0": tss.rsp0} | {f"IST{i}": t for i, t in enumerate(tss.ist, 1) if t}
    rows: list[Json] = []
    for name, top in tops.items():
        at_push = top - 8 & (1 << 64) - 1
        try:
            refused = context.page_fault(at_push, 8, "write", user=False)
            state = "can be written" if refused is None else refused.text
        except ReadError as lacking:
            state = lacking.what
        kind = kind_of(kernel, at_push, context.root)
        rows.append({"stack": name, "top": hex64(top), "push": state, "is": kind.text})
    return rows
