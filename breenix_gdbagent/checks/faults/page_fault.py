"""A page fault explained: what was accessed, what lies there, where the walk ended, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.faults import address_kind as kinds
from breenix_gdbagent.checks.faults import exceptions
from breenix_gdbagent.checks.faults.address_kind import AddressKind, kind_of
from breenix_gdbagent.checks.faults.cause import (
    GUARD_PAGE,
    HANDLED,
    STALE_TLB,
    Cause,
    access_of,
    cause_of,
)
from breenix_gdbagent.checks.faults.defects import (
    Defect,
    defect_of,
    finding_of,
    handler_of_rip,
    implicit_defect,
    mapped_elsewhere,
    on_boot_tables,
    stack_not_here,
    where_of,
)
from breenix_gdbagent.checks.faults.wording import (
    at,
    error_bits,
    facts,
    hints,
    sentence,
    subject,
    walk_text,
    who,
)
from breenix_gdbagent.checks.finding import Confidence, Finding
from breenix_gdbagent.checks.prose import Prose
from breenix_gdbagent.checks.spaces import BOOTLOADER
from breenix_gdbagent.cpumodel.context import PF, Context, Raised
from breenix_gdbagent.cpumodel.delivery import Attempt
from breenix_gdbagent.cpumodel.explanation import Explanation
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.exceptions import PF_USER

_VERB = {"read": "read", "write": "wrote", "fetch": "fetched an instruction from"}


@dataclass(frozen=True, slots=True)
class PageFault:
    """One #PF with all that is said of it. `implicit`: the CPU's own access, not the program's;
    `attempt` is then the delivery that it was made for, where that is known."""

    kernel: Kernel
    explanation: Explanation
    raised: Raised
    error_code: int
    cr2: int
    kind: AddressKind
    cause: Cause
    implicit: bool
    attempt: Attempt | None = None

    @property
    def context(self) -> Context:
        return self.explanation.context


def check(kernel: Kernel, explanation: Explanation, raised: Raised) -> Iterator[Finding]:
    """The findings about a #PF that was delivered: itself, and the defect behind it when it was
    the CPU's own access that failed. `raised` has the pushed error code and CR2.

    Raises `ReadError` where the tables in the way are not to be had.
    """
    fault = page_fault(kernel, explanation, raised)
    defect = defect_behind(fault)
    yield finding(fault, defect)
    first = explanation.first
    if fault.attempt is not None and first is not None and first.origin == "exception":
        # What had to be delivered when this came, and was overtaken by it.
        yield exceptions.finding(kernel, explanation, first, defect)
    if defect is not None:
        yield finding_of(kernel, explanation.context, defect)


def page_fault(kernel: Kernel, explanation: Explanation, raised: Raised) -> PageFault:
    """Everything about one #PF of this context. Raises `ReadError`, see `check`."""
    context = explanation.context
    cr2, error_code = raised.address or 0, raised.error_code or 0
    kind = kind_of(kernel, cr2, context.root)
    cause = cause_of(kernel, context, error_code, cr2, kind)
    course, attempt = explanation.course, None
    if course is not None:
        tried = (a for a in course.attempts if a.raised is not None)
        attempt = next((a for a in tried if a.raised and a.raised.address == cr2), None)
        if course.first.vector == raised.vector and course.first.address == cr2:
            attempt = None
    implicit = attempt is not None or (context.cpl == 3 and not error_code & PF_USER)
    return PageFault(kernel, explanation, raised, error_code, cr2, kind, cause, implicit, attempt)


def defect_behind(fault: PageFault) -> Defect | None:
    """What the CPU's own access failed on, the handler that could not be fetched, or the kernel
    stack that only this space lacks; None for another access of the program."""
    if fault.attempt is not None:
        return defect_of(fault.kernel, fault.context, fault.attempt)
    if fault.implicit or fault.kind.name in kinds.TABLES:
        return implicit_defect(fault.kernel, fault.context, fault.raised, fault.kind)
    if fault.cr2 == fault.context.rip:
        return handler_of_rip(fault.kernel, fault.context)
    return stack_not_here(fault.kernel, fault.context, fault.cr2, fault.kind)


def finding(fault: PageFault, defect: Defect | None = None) -> Finding:
    """The finding about the page fault itself."""
    kernel, context = fault.kernel, fault.context
    explanation, cause = fault.explanation, fault.cause
    instruction = explanation.prediction.instruction
    walk = kernel.walk(context.root, fault.cr2)
    others = mapped_elsewhere(kernel, context, fault.cr2)
    evidence: dict[str, Json] = {
        "explanation": _story(fault, len(others)),
        "walk_text": walk_text(walk),
        **facts(kernel, context, instruction),
        "cr2": hex64(fault.cr2),
        "address_is": fault.kind.text,
        "access": access_of(fault.error_code, fault.cr2, context.rip),
        "implicit": fault.implicit,
        "error_code": hex64(fault.error_code),
        "error_bits": error_bits(fault.error_code),
        "predicted": hex64(cause.predicted) if cause.predicted is not None else "allowed",
        "mapped_in": list[Json](s.label for s in others[:8]),
        **hints(kernel, context, walk),
    }
    if cause.deviation:
        evidence["deviation"] = cause.deviation
    return Finding(
        cause.code,
        subject(kernel, context),
        Prose(_summary(fault, defect), evidence),
        where_of(kernel, context, fault.cr2),
        cause=_cause(fault, defect, bool(others)),
        chain=explanation.chain or (fault.raised.text,),
        confidence=_confidence(fault),
        mend=defect.code if defect is not None else None,
    )


def _cause(fault: PageFault, defect: Defect | None, mapped: bool) -> str | None:
    if mapped and on_boot_tables(fault.kernel, fault.context):
        return BOOTLOADER.name
    return defect.code.name if defect is not None else None


def _confidence(fault: PageFault) -> Confidence:
    """Proved: what the tables predict for this access is what was pushed, and the access is one
    that the instruction makes (where its bytes are to be had) or the CPU made for a delivery."""
    explanation = fault.explanation
    if fault.cause.code is STALE_TLB:
        return "likely"
    if explanation.course is not None:
        return explanation.confidence
    return "likely" if explanation.prediction.instruction is not None else "proved"


def _who(fault: PageFault) -> str:
    return who(fault.kernel, fault.context)


def _at(fault: PageFault) -> str:
    return at(fault.kernel, fault.context)


def _verb(fault: PageFault) -> str:
    return _VERB[access_of(fault.error_code, fault.cr2, fault.context.rip)]


def _summary(fault: PageFault, defect: Defect | None) -> str:
    context, place = fault.context, f"{hex64(fault.cr2)} ({fault.kind.text})"
    if fault.implicit:
        what = fault.attempt.event.text if fault.attempt is not None else "an event"
        told = defect.said if defect is not None else fault.cause.why
        return f"the CPU could not deliver {what} from ring {context.cpl}: {place}; {told}"
    return f"{_who(fault)} {_verb(fault)} {place} at {_at(fault)}: {fault.cause.why}"


def _story(fault: PageFault, others: int) -> str:
    context, cause = fault.context, fault.cause
    space = fault.kernel.space_of(context.root)
    under = space.label if space is not None else "an unknown space"
    said = [_what_ran(fault), f"{hex64(fault.cr2)} is in {fault.kind.text}."]
    said.append(f"Under CR3 {hex64(context.root)} ({under}) {cause.why}.")
    if fault.cause.code not in (HANDLED, STALE_TLB):
        said.append(
            f"{others} other address space{'s map' if others != 1 else ' maps'} it."
            if others
            else "No other address space maps it."
        )
    if cause.code is GUARD_PAGE:
        said.append(_depth(fault))
    said.append(_agreement(fault))
    said.append(_nested(fault))
    return sentence(*said)


def _what_ran(fault: PageFault) -> str:
    cr2 = hex64(fault.cr2)
    if fault.attempt is not None:
        attempt = fault.attempt
        top = hex64(attempt.top) if attempt.top is not None else "not known"
        doing = (
            f"had to push its frame onto {attempt.stack}, whose value is {top}"
            if attempt.step == "stack"
            else f"had to look at {fault.kind.text}"
        )
        return (
            f"{attempt.event.text} came while {_who(fault)} ran at {_at(fault)}; to deliver "
            f"it the CPU {doing}, and this access, made as ring 0 whatever ring was interrupted, "
            f"failed at {cr2}."
        )
    if fault.implicit:
        return f"While {_who(fault)} ran at {_at(fault)} the CPU itself, as ring 0, accessed {cr2}."
    instruction = fault.explanation.prediction.instruction
    if instruction is None:
        return f"{_who(fault)} {_verb(fault)} {cr2} at {_at(fault)}."
    return f"{_who(fault)} executed `{instruction.text}` at {_at(fault)} and {_verb(fault)} {cr2}."


def _depth(fault: PageFault) -> str:
    stack, rsp = fault.kind.stack, fault.context.rsp
    if stack is None:
        return ""
    if stack.bottom - 0x2000 <= rsp < stack.bottom + 0x2000:
        return (
            f"RSP {hex64(rsp)} is at the bottom of {stack.name} ({stack.size // 1024} KiB from "
            f"{hex64(stack.bottom)} to {hex64(stack.top)}): the stack is used up."
        )
    return f"RSP {hex64(rsp)} is not near that stack: a stray pointer rather than an overflow."


def _agreement(fault: PageFault) -> str:
    cause, observed = fault.cause, fault.explanation.observed
    if observed.vector != PF:
        return f"its error code, {hex64(fault.error_code)}, is what the tables predict."
    pushed = f"The CPU pushed error code {hex64(fault.error_code)}"
    if not cause.agrees:
        return f"{pushed}, which the tables do not give."
    if cause.deviation:
        return f"{pushed}; the tables give {hex64(cause.predicted or 0)} ({cause.deviation})."
    doubt = fault.explanation.doubt
    if fault.explanation.course is None and fault.explanation.prediction.instruction is not None:
        doubt = doubt or "no access of the decoded instruction leads there"
    return f"{pushed}, as the tables predict{f' ({doubt})' if doubt else ''}."


def _nested(fault: PageFault) -> str:
    stack = fault.kernel.stack_at(fault.context.rsp)
    if stack is None or stack.ist is None or fault.context.cpl:
        return ""
    return (
        f"The program that faulted ran on {stack.name} itself: it is a fault inside an exception "
        "handler, and the frame of the first one may be overwritten."
    )
