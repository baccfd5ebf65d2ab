"""Exceptions other than page and double faults: the instruction and the operand that did it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.addresses import Hex, VirtAddr
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, SPREAD, Facts
from breenix_gdbagent.checks.faults import narrow
from breenix_gdbagent.checks.faults.address_kind import AddressKind, kind_of
from breenix_gdbagent.checks.faults.cause import NON_CANONICAL
from breenix_gdbagent.checks.faults.defects import (
    Defect,
    defects_of,
    findings_of,
    only_worse,
)
from breenix_gdbagent.checks.faults.interrupted import (
    FaultFacts,
    Hints,
    SelectorErrorCode,
    hints,
    interrupted,
)
from breenix_gdbagent.checks.faults.interrupted import subject as subject_of
from breenix_gdbagent.checks.finding import Code, Finding, Where, declare
from breenix_gdbagent.cpumodel.context import (
    AC,
    DE,
    GP,
    NP,
    SS,
    TS,
    UD,
    Context,
    Raised,
    vector_name,
)
from breenix_gdbagent.cpumodel.delivery import IDT_ERROR
from breenix_gdbagent.cpumodel.explanation import Explanation
from breenix_gdbagent.cpumodel.rules import error_code_left, is_privileged
from breenix_gdbagent.cpumodel.selectors import SELECTOR, lookup, runs_32_bit
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel

GENERAL_PROTECTION = declare(
    "general-protection",
    "error",
    "the CPU refused an instruction, a selector or a frame",
    arises="Ring 3 ran an instruction of ring 0 (hlt, cli, mov cr3), a selector is wrong, iretq "
    "popped a bad frame, an MSR was refused, or an SSE operand is not aligned.",
    confirm="The instruction at RIP, and the error code: 0, or the selector that is to blame.",
    mend="See the operand that the explanation names; for iretq, the saved context of the thread.",
    kind="event",
)
INVALID_OPCODE = declare(
    "invalid-opcode",
    "error",
    "the CPU met no instruction that it knows",
    arises="ud2, which compilers make of unreachable code and aborts; a jump into data; SSE with "
    "CR4.OSFXSR clear.",
    confirm="disassemble RIP: ud2, or bytes that are no code.",
    mend="For ud2, look at the function for a panic without a message; else at who jumped there.",
    kind="event",
)
DIVIDE_ERROR = declare(
    "divide-error",
    "error",
    "a division by zero, or with a quotient that does not fit",
    arises="A div or idiv with a zero divisor, or a quotient that does not fit its register. Rust "
    "checks its own divisions: there it is asm, C, or a program in ring 3.",
    confirm="The divisor register or memory operand.",
    mend="Check the divisor before dividing.",
    kind="event",
)
UNHANDLED = declare(
    "exception.unhandled",
    "error",
    "an exception came that the kernel has no handler for",
    arises="The kernel installs no gate for that vector: such an exception becomes #NP, and where "
    "that gate is missing too, a double fault.",
    confirm="The entry at IDTR.base + 16 * vector is not present.",
    mend="Install a handler for that vector, and look at why it came.",
    kind="event",
)

_CODES = {UD: INVALID_OPCODE, DE: DIVIDE_ERROR, GP: GENERAL_PROTECTION, SS: GENERAL_PROTECTION,
          TS: GENERAL_PROTECTION, NP: GENERAL_PROTECTION, AC: GENERAL_PROTECTION}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed(Facts):
    """The error code that was pushed."""

    error_code: Hex
    error_says: SelectorErrorCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Blamed(Facts):
    """The address that is to blame."""

    address: VirtAddr
    address_is: AddressKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ExceptionFacts(FaultFacts):
    """One exception: its vector, what was pushed and for which address.

    `raised` is the exception with the CPU model's reason, `delivered` what reached a handler in the
    end where that is known, `defect` what its own delivery failed on. Where no reason is known,
    `foreseen` is what the instruction raises as it stands, `gap` what could not be judged.
    """

    vector: int
    exception: str
    hints: Annotated[Hints, SPREAD]
    pushed: Annotated[Pushed | None, SPREAD]
    deviation: Annotated[str, IF_KNOWN]
    blamed: Annotated[Blamed | None, SPREAD]
    raised: Annotated[Raised, ASIDE]
    delivered: Annotated[Raised | None, ASIDE]
    defect: Annotated[Defect | None, ASIDE]
    foreseen: Annotated[Raised | None, ASIDE]
    gap: Annotated[str, ASIDE]
    doubt: Annotated[str, ASIDE]


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
    first, behind = course.first, findings_of(kernel, explanation.context, defects)
    if first.origin == "exception" or only_worse(defects[0]):
        told = first
    else:
        told = next(a.raised for a in reversed(course.attempts) if a.raised is not None)
    yield finding(kernel, explanation, told, defects[0], raised, behind)
    yield from behind


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
    delivered: Raised | None = None,
    behind: tuple[Finding, ...] = (),
) -> Finding:
    """The finding about one exception; `delivered` is what reached a handler in the end, `behind`
    are the findings that it rests on."""
    context, course = explanation.context, explanation.course
    code = code_of(explanation, raised)
    own = code is not UNHANDLED and course is not None and raised == course.first
    if own and raised.origin == "exception":
        behind = ()  # what its delivery failed on made it worse, and is not why it came
    told = delivered if delivered is not None else raised
    return Finding(
        code,
        subject_of(kernel, context),
        _facts(kernel, explanation, raised, defect, delivered),
        Where(root=context.root, va=raised.address),
        cause=defect.code.name if defect is not None and behind else None,
        because=behind,
        chain=explanation.chain or (told.text,),
        confidence=explanation.confidence,
        advice=_advice(kernel, explanation, raised),
    )


LONG_CODE = (
    "In the descriptor of the kernel's code segment set L (bit 53) and clear D (bit 54), then load "
    "CS again: long mode runs code without L as 32-bit code, which cuts RIP and RSP."
)


_POP_ERROR_CODE = (
    "In the handler of a vector that pushes an error code (8, 10 to 14, 17, 21) add 8 to RSP "
    "before iretq; or declare it as one that takes an error code."
)


def _advice(kernel: Kernel, explanation: Explanation, raised: Raised) -> str:
    """What to do where the kernel runs as 32-bit code, a handler returned with the error code still
    on the stack, a program ran what is not for its ring, or a selector is to blame."""
    context, instruction = explanation.context, explanation.prediction.instruction
    returns = instruction is not None and instruction.name == "iretq"
    if raised.vector == GP and returns and error_code_left(context) is not None:
        return _POP_ERROR_CODE
    if not context.cpl and runs_32_bit(context):
        return LONG_CODE
    if (back := narrow.advice(kernel, context)) != "":
        return back
    if raised.vector == GP and raised.origin == "exception" and is_privileged(context, instruction):
        return _PRIVILEGED
    return _SEGMENTS if _blames_segment(context, raised) else ""


_PRIVILEGED = (
    "Take the instruction out of that program, which may not run it; a kernel that is to live on "
    "ends such a program in its #GP handler."
)
_SEGMENTS = (
    "Give the GDT the segment that this selector is to name, and reload SS, DS, ES, FS and GS "
    "after lgdt: until then they hold selectors of the GDT before it, and iretq loads SS again."
)


def _blames_segment(context: Context, raised: Raised) -> bool:
    """Whether its error code names an entry of the GDT or the LDT that has no segment."""
    code = raised.error_code or 0
    if raised.vector not in (GP, NP, SS) or not code & SELECTOR or code & IDT_ERROR:
        return False
    try:
        found = lookup(context, code & SELECTOR)
    except ReadError:
        return True
    return isinstance(found, Raised) or found.system or not found.present


def _facts(
    kernel: Kernel,
    explanation: Explanation,
    raised: Raised,
    defect: Defect | None,
    delivered: Raised | None,
) -> ExceptionFacts:
    context, prediction = explanation.context, explanation.prediction
    error = (delivered if delivered is not None else raised).error_code
    return ExceptionFacts(
        at=interrupted(kernel, context, prediction.instruction),
        vector=raised.vector,
        exception=vector_name(raised.vector),
        hints=hints(kernel, context),
        pushed=None
        if error is None
        else Pushed(error_code=Hex(error), error_says=SelectorErrorCode(error)),
        deviation=explanation.deviation,
        blamed=_blamed(kernel, explanation, raised),
        raised=raised,
        delivered=delivered,
        defect=defect,
        foreseen=prediction.raised[0] if prediction.raised else None,
        gap=prediction.gap,
        doubt=explanation.doubt,
    )


def _blamed(kernel: Kernel, explanation: Explanation, raised: Raised) -> Blamed | None:
    if raised.address is None:
        return None
    kind = kind_of(kernel, raised.address, explanation.context.root)
    return Blamed(address=VirtAddr(raised.address), address_is=kind)
