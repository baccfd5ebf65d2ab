"""Exceptions other than page and double faults: the instruction and the operand that did it."""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.faults.address_kind import kind_of
from breenix_gdbagent.checks.faults.cause import NON_CANONICAL
from breenix_gdbagent.checks.faults.defects import Defect, defects_of, findings_of
from breenix_gdbagent.checks.faults.wording import (
    at,
    facts,
    hints,
    selector_error,
    sentence,
    text_at,
    who,
)
from breenix_gdbagent.checks.faults.wording import subject as subject_of
from breenix_gdbagent.checks.finding import Code, Finding, Where, declare
from breenix_gdbagent.checks.prose import Prose
from breenix_gdbagent.cpumodel.context import AC, DE, GP, NP, SS, TS, UD, Raised, vector_name
from breenix_gdbagent.cpumodel.explanation import Explanation
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel

_IDT = "kernel/src/interrupts.rs"

GENERAL_PROTECTION = declare(
    "general-protection",
    "error",
    "the CPU refused an instruction, a selector or a frame",
    arises="Ring 3 ran an instruction of ring 0 (hlt, cli, mov cr3), a selector is wrong, iretq "
    "popped a bad frame, an MSR was refused, or an SSE operand is not aligned. The 2025 kernel "
    "panics on any #GP, from ring 3 too (fixed 252d7fe5).",
    confirm="The instruction at RIP, and the error code: 0, or the selector that is to blame.",
    mend="See the operand that the explanation names; for iretq, the saved context of the thread.",
    kind="event",
    see=(_IDT, "kernel/src/interrupts/context_switch.rs"),
)
INVALID_OPCODE = declare(
    "invalid-opcode",
    "error",
    "the CPU met no instruction that it knows",
    arises="ud2, which Rust compiles unreachable code and aborts to; a jump into data; SSE with "
    "CR4.OSFXSR clear. Breenix's handler halts the CPU, for a fault of ring 3 too.",
    confirm="disassemble RIP: ud2, or bytes that are no code.",
    mend="For ud2, look at the function for a panic without a message; else at who jumped there.",
    kind="event",
    see=(_IDT,),
)
DIVIDE_ERROR = declare(
    "divide-error",
    "error",
    "a division by zero, or with a quotient that does not fit",
    arises="div or idiv with a zero divisor. Rust checks its own divisions, so it is asm or C, or "
    "a program in ring 3; Breenix panics for both.",
    confirm="The divisor register or memory operand.",
    mend="Check the divisor before dividing.",
    kind="event",
    see=(_IDT,),
)
UNHANDLED = declare(
    "exception.unhandled",
    "error",
    "an exception came that the kernel has no handler for",
    arises="Breenix installs no gates for 2, 4, 5, 7, 9, 10, 11 and 16 to 21: such an exception "
    "becomes #NP, whose gate is missing too, and so a double fault.",
    confirm="The entry at IDTR.base + 16 * vector is not present.",
    mend="Install a handler for that vector, and look at why it came.",
    kind="event",
    see=(_IDT,),
)

_CODES = {UD: INVALID_OPCODE, DE: DIVIDE_ERROR, GP: GENERAL_PROTECTION, SS: GENERAL_PROTECTION,
          TS: GENERAL_PROTECTION, NP: GENERAL_PROTECTION, AC: GENERAL_PROTECTION}  # fmt: skip


def check(kernel: Kernel, explanation: Explanation, raised: Raised) -> Iterator[Finding]:
    """The findings about an exception that reached its handler: what it began with, and the
    defects that turned it into another. `raised` has the vector and the pushed error code."""
    course = explanation.course
    defects = defects_of(kernel, explanation.context, course) if course is not None else ()
    if course is None or not defects:
        told = raised
        if course is not None:
            failed = [a.raised for a in course.attempts if a.raised is not None]
            told = failed[-1] if failed else course.first
        yield finding(kernel, explanation, told, None, raised)
        return
    first = course.first
    if first.origin == "exception" or defects[0].code.name == "idt.gate-missing":
        yield finding(kernel, explanation, first, defects[0], raised)
    else:
        told = next(a.raised for a in reversed(course.attempts) if a.raised is not None)
        yield finding(kernel, explanation, told, defects[0], raised)
    yield from findings_of(kernel, explanation.context, defects)


def code_of(explanation: Explanation, raised: Raised) -> Code:
    """The code of an exception: of its vector, or of the address that it was about."""
    context, course = explanation.context, explanation.course
    if raised.origin != "exception":
        return UNHANDLED
    own = course is None or raised == course.first  # of the program, not met during a delivery
    bad = own and raised.address is not None and not context.canonical(raised.address)
    if bad and raised.vector in (GP, SS) and not raised.error_code:
        return NON_CANONICAL
    return _CODES.get(raised.vector, UNHANDLED)


def finding(
    kernel: Kernel,
    explanation: Explanation,
    raised: Raised,
    defect: Defect | None = None,
    pushed: Raised | None = None,
) -> Finding:
    """The finding about one exception; `pushed` is what reached a handler in the end."""
    context = explanation.context
    instruction = explanation.prediction.instruction
    code = code_of(explanation, raised)
    why = raised.why or _nothing_known(explanation)
    name = vector_name(raised.vector)
    evidence: dict[str, Json] = {
        "explanation": _story(kernel, explanation, raised, defect, pushed),
        **facts(kernel, context, instruction),
        "vector": raised.vector,
        "exception": name,
        **hints(kernel, context),
    }
    told = pushed if pushed is not None else raised
    if told.error_code is not None:
        evidence["error_code"] = hex64(told.error_code)
        evidence["error_says"] = selector_error(told.error_code)
    if explanation.deviation:
        evidence["deviation"] = explanation.deviation
    if raised.address is not None:
        evidence["address"] = hex64(raised.address)
        evidence["address_is"] = kind_of(kernel, raised.address, context.root).text
    doing = f"`{instruction.text}` " if instruction is not None else ""
    summary = f"{name} in {who(kernel, context)}, {doing}at {at(kernel, context)}: {why}"
    return Finding(
        code,
        subject_of(kernel, context),
        Prose(summary, evidence),
        Where(root=context.root, va=raised.address),
        cause=defect.code.name if defect is not None else None,
        chain=explanation.chain or (told.text,),
        confidence=explanation.confidence,
    )


def _nothing_known(explanation: Explanation) -> str:
    foreseen = explanation.prediction.raised
    if foreseen:
        return f"the instruction as it stands raises {foreseen[0].text} instead"
    gap = explanation.prediction.gap
    return f"what raised it is not known ({gap})" if gap else "nothing that we know raises it there"


def _story(
    kernel: Kernel,
    explanation: Explanation,
    raised: Raised,
    defect: Defect | None,
    pushed: Raised | None,
) -> str:
    context, instruction = explanation.context, explanation.prediction.instruction
    ran = f"`{instruction.text}`, " if instruction is not None else ""
    said = [f"{who(kernel, context)} was at {ran}{at(kernel, context)}."]
    said.append(f"{vector_name(raised.vector)} came because {raised.why}." if raised.why else
                f"{_nothing_known(explanation)}.")  # fmt: skip
    if defect is not None and pushed is not None:
        said.append(f"It could not be delivered: {defect.said}; so {pushed.text} came instead.")
    elif defect is not None:
        said.append(f"It could not be delivered: {defect.said}.")
    elif pushed is not None and pushed.error_code is not None:
        said.append(f"The CPU pushed {selector_error(pushed.error_code)}.")
    if explanation.deviation:
        said.append(f"The pushed error code differs as is known: {explanation.deviation}.")
    if pushed is not None and pushed.vector in (GP, SS):
        said.append("CR2 is not set by it and says nothing here.")
    if text := text_at(context):
        said.append(f"RIP stands in text, {text!r}: the program ran on into its data.")
    if explanation.doubt:
        said.append(f"Not proved: {explanation.doubt}.")
    return sentence(*said)
