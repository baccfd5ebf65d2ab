"""A page fault explained: what was accessed, what lies there, where the walk ended, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from breenix_gdbagent.addresses import Hex, VirtAddr
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, SHORT, SPREAD
from breenix_gdbagent.checks.faults import address_kind as kinds
from breenix_gdbagent.checks.faults import exceptions, narrow
from breenix_gdbagent.checks.faults.address_kind import AddressKind
from breenix_gdbagent.checks.faults.cause import (
    GUARD_PAGE,
    STALE_TLB,
    UNMAPPED,
    Cause,
    Refused,
    access_of,
    cause_of,
)
from breenix_gdbagent.checks.faults.constant import Constant, constant_of
from breenix_gdbagent.checks.faults.defects import (
    MOST_SHOWN,
    Defect,
    defect_of,
    finding_of,
    handler_of_rip,
    implicit_defect,
    mapped_elsewhere,
    on_boot_tables,
    stack_not_here,
)
from breenix_gdbagent.checks.faults.interrupted import (
    FaultFacts,
    Hints,
    PageFaultCode,
    hints,
    interrupted,
    subject,
)
from breenix_gdbagent.checks.faults.new_root import NewRoot, new_root
from breenix_gdbagent.checks.faults.overrun import Recursion, advice, kind_under, recursion
from breenix_gdbagent.checks.finding import Code, Confidence, Finding, place_of
from breenix_gdbagent.checks.spaces import BOOTLOADER
from breenix_gdbagent.checks.tables import NX_WITHOUT_NXE
from breenix_gdbagent.cpumodel.context import PF, Context, Raised
from breenix_gdbagent.cpumodel.delivery import Attempt
from breenix_gdbagent.cpumodel.explanation import Explanation
from breenix_gdbagent.cpumodel.selectors import runs_32_bit
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.exceptions import PF_USER, PF_WRITE


@dataclass(frozen=True, slots=True)
class Predicted:
    """The error code that the tables give now; None where they allow the access."""

    error_code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFaultFacts(FaultFacts):
    """One page fault: what was accessed and how, and what the tables say of it.

    `implicit`: the access was the CPU's own; `attempt` is then the delivery that it was made for,
    and `defect` what that failed on. `others` counts the spaces that map the address. `pushed`: the
    fault reached its own handler, so that its error code was seen; `to_come`: it has not happened
    yet, and will as soon as the program goes on; `unexplained`: no access of the decoded
    instruction leads there; `new_root`: this CR3 maps nothing of what the CPU runs on; `own`: the
    CPU's own access that the instruction needs, to a descriptor table or the TSS. `handler_stack`
    is the IST stack that the program ran on.
    """

    cr2: VirtAddr
    address_is: AddressKind
    access: str
    implicit: bool
    error_code: Hex
    error_bits: PageFaultCode
    predicted: Predicted
    mapped_in: Annotated[tuple[Space, ...], SHORT]
    recursion: Annotated[Recursion | None, IF_KNOWN]
    constant: Annotated[Constant | None, IF_KNOWN]
    hints: Annotated[Hints, SPREAD]
    deviation: Annotated[str, IF_KNOWN]
    walk: Annotated[Walk, ASIDE]
    cause: Annotated[Cause, ASIDE]
    others: Annotated[int, ASIDE]
    attempt: Annotated[Attempt | None, ASIDE]
    defect: Annotated[Defect | None, ASIDE]
    pushed: Annotated[bool, ASIDE]
    to_come: Annotated[bool, ASIDE]
    unexplained: Annotated[bool, ASIDE]
    own: Annotated[Raised | None, ASIDE]
    new_root: Annotated[NewRoot | None, ASIDE]
    doubt: Annotated[str, ASIDE]
    handler_stack: Annotated[str | None, ASIDE]


@dataclass(frozen=True, slots=True)
class PageFault:
    """One #PF with all that is said of it. `implicit`: the CPU's own access, not the program's;
    `attempt` is then the delivery that it was made for, where that is known. `to_come`: the program
    was interrupted before the access, and makes it as soon as it goes on."""

    kernel: Kernel
    explanation: Explanation
    raised: Raised
    error_code: int
    cr2: int
    kind: AddressKind
    cause: Cause
    implicit: bool
    attempt: Attempt | None = None
    to_come: bool = False

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
    context = explanation.context
    behind = () if defect is None else (finding_of(kernel, context, defect),)
    yield finding(fault, defect, behind)
    first = explanation.first
    if fault.attempt is not None and first is not None and first.origin == "exception":
        # What had to be delivered when this came, and was overtaken by it.
        yield exceptions.finding(kernel, explanation, first, defect, behind=behind)
    yield from behind


def to_come(kernel: Kernel, explanation: Explanation) -> Iterator[Finding]:
    """The page fault that a program which was interrupted makes as soon as it goes on."""
    first = next(iter(explanation.prediction.raised), None)
    if first is None or first.vector != PF or first.error_code is None:
        return
    fault = replace(page_fault(kernel, explanation, first), to_come=True)
    yield replace(finding(fault), chain=(first.text,), confidence="likely")


def page_fault(kernel: Kernel, explanation: Explanation, raised: Raised) -> PageFault:
    """Everything about one #PF of this context. Raises `ReadError`, see `check`."""
    context = explanation.context
    cr2, error_code = raised.address or 0, raised.error_code or 0
    kind = kind_under(kernel, context, cr2)
    cause = cause_of(kernel, context, error_code, cr2, kind)
    course, attempt = explanation.course, None
    if course is not None:
        tried = (a for a in course.attempts if a.raised is not None)
        attempt = next((a for a in tried if a.raised and a.raised.address == cr2), None)
        if course.first.vector == raised.vector and course.first.address == cr2:
            attempt = None
    first = explanation.first
    by_instruction = first is not None and first.own and first.address == cr2
    aside = context.cpl == 3 and not error_code & PF_USER and not by_instruction
    implicit = attempt is not None or aside
    return PageFault(kernel, explanation, raised, error_code, cr2, kind, cause, implicit, attempt)


def defect_behind(fault: PageFault) -> Defect | None:
    """What the CPU's own access failed on, the handler that could not be fetched, or the kernel
    stack that only this space lacks; None for another access of the program."""
    if fault.attempt is not None:
        return defect_of(fault.kernel, fault.context, fault.attempt)
    if fault.implicit or _own(fault) is not None or fault.kind.name in kinds.TABLES:
        return implicit_defect(fault.kernel, fault.context, fault.raised, fault.kind)
    if fault.cr2 == fault.context.rip:
        return handler_of_rip(fault.kernel, fault.context)
    return stack_not_here(fault.kernel, fault.context, fault.cr2, fault.kind)


def finding(
    fault: PageFault, defect: Defect | None = None, behind: tuple[Finding, ...] = ()
) -> Finding:
    """The finding about the page fault itself, which rests on those `behind` it."""
    kernel, context, cause = fault.kernel, fault.context, fault.cause
    others = mapped_elsewhere(kernel, context, fault.cr2)
    walk = kernel.walk(context.root, fault.cr2)
    return Finding(
        cause.code,
        subject(kernel, context),
        _facts(fault, defect, walk, others),
        place_of(walk),
        cause=_cause(fault, defect, bool(others)),
        because=behind,
        chain=fault.explanation.chain or (fault.raised.text,),
        confidence=_confidence(fault),
        mend=defect.code if defect is not None else _mend(cause),
        advice=_advice(fault) if defect is None else "",
    )


_DESCRIPTORS = (
    "Set the accessed bit of segment descriptors in the GDT beforehand, or keep the GDT in memory "
    "that ring 0 may write: ltr has to set the busy bit of a TSS."
)


_TOO_HIGH = (
    "The entry names an address that this CPU cannot have: look at how the frame's address was "
    "made (a virtual address, or flags shifted into it)."
)
_NOT_ALIGNED = "Align the frame of a large page to the size of the page before PS is set."
_NO_LARGE_PAGE = (
    "Leave PS (bit 7) out of this entry: here it has to name a table (the PAT bit of a 4 KiB page "
    "is bit 7 too)."
)
_NEW_TABLES = (
    "Before CR3 is loaded, its tables have to map the code that loads it, its stack, the IDT and "
    "the GDT at the addresses where they are used."
)
_TABLE_OVERWRITTEN = (
    "The kernel ran on that table until it was written over: look at what the instruction at RIP "
    "writes, and for a stack or a buffer that runs into the table, or a frame given out twice."
)
_NO_TABLE = (
    "Load CR3 with the physical address of the top table (not its virtual one), after the table "
    "has been filled."
)
_POINTER = (
    "Follow the pointer back from the faulting instruction (bt): no space that is known maps this "
    "address."
)
_MAP_FIRST = "This address is a constant in the code: map it before it is used, or mend the number."
_PARENTS = (
    "Give the right to the parent tables too (map_to_with_table_flags): it counts only when every "
    "level has it."
)
_BY_REASON: Mapping[str, str] = {
    "beyond-width": _TOO_HIGH,
    "below-large-page": _NOT_ALIGNED,
    "no-large-page": _NO_LARGE_PAGE,
}


def _mend(cause: Cause) -> Code | None:
    """NX without NXE is a state of the CPU, and that is to be mended."""
    why = cause.why
    nx = isinstance(why, Refused) and [r.why for r in why.reserved] == ["nx-without-nxe"]
    return NX_WITHOUT_NXE if nx else None


def _advice(fault: PageFault) -> str:
    """What to do where the refusal itself says it."""
    why = fault.cause.why
    if not fault.context.cpl and runs_32_bit(fault.context):
        return exceptions.LONG_CODE
    if (back := narrow.advice(fault.kernel, fault.context)) != "":
        return back
    if isinstance(why, Refused):
        if len(why.reserved) == 1 and why.reserved[0].why in _BY_REASON:
            return _BY_REASON[why.reserved[0].why]
        if why.meant is not None:
            return _PARENTS
    root = new_root(fault.kernel, fault.context, fault.cr2)
    if root is not None:
        if root.earlier:
            return _TABLE_OVERWRITTEN
        empty = root.no_table is None or root.no_table.what == "zeros"
        return _NEW_TABLES if empty else _NO_TABLE
    if fault.cause.code is GUARD_PAGE:
        return advice(fault.kernel, fault.kind)
    own = _own(fault)
    if own is not None and own.error_code is not None and own.error_code & PF_WRITE:
        return _DESCRIPTORS
    if fault.cause.code is UNMAPPED and not fault.implicit:
        return _of_pointer(fault)
    return ""


def _of_pointer(fault: PageFault) -> str:
    """What to do where no other space maps the address, so that nothing was left out here."""
    if mapped_elsewhere(fault.kernel, fault.context, fault.cr2):
        return ""
    if constant_of(fault.kernel, fault.context, fault.cr2) is not None:
        return _MAP_FIRST
    return _POINTER


def _facts(
    fault: PageFault, defect: Defect | None, walk: Walk, others: tuple[Space, ...]
) -> PageFaultFacts:
    kernel, context, explanation = fault.kernel, fault.context, fault.explanation
    instruction = explanation.prediction.instruction
    return PageFaultFacts(
        at=interrupted(kernel, context, instruction),
        cr2=VirtAddr(fault.cr2),
        address_is=fault.kind,
        access=access_of(fault.error_code, fault.cr2, context.rip),
        implicit=fault.implicit,
        error_code=Hex(fault.error_code),
        error_bits=PageFaultCode(fault.error_code),
        predicted=Predicted(fault.cause.predicted),
        mapped_in=others[:MOST_SHOWN],
        recursion=_recursion(fault),
        constant=None if fault.implicit else constant_of(kernel, context, fault.cr2),
        hints=hints(kernel, context, walk),
        deviation=fault.cause.deviation,
        walk=walk,
        cause=fault.cause,
        others=len(others),
        attempt=fault.attempt,
        defect=defect,
        pushed=explanation.observed.vector == PF and not fault.to_come,
        to_come=fault.to_come,
        unexplained=explanation.course is None and instruction is not None,
        own=_own(fault),
        new_root=new_root(kernel, context, fault.cr2),
        doubt=explanation.doubt,
        handler_stack=_handler_stack(fault),
    )


def _recursion(fault: PageFault) -> Recursion | None:
    if fault.cause.code is not GUARD_PAGE:
        return None
    return recursion(fault.kernel, fault.context, fault.kind)


def _own(fault: PageFault) -> Raised | None:
    first = fault.explanation.first
    if first is None or not first.own or first.address != fault.cr2 or fault.implicit:
        return None
    return first


def _handler_stack(fault: PageFault) -> str | None:
    stack = fault.kernel.stack_at(fault.context.rsp)
    return None if stack is None or stack.ist is None or fault.context.cpl else stack.name


def _cause(fault: PageFault, defect: Defect | None, mapped: bool) -> str | None:
    if mapped and on_boot_tables(fault.kernel, fault.context):
        return BOOTLOADER.name
    return defect.code.name if defect is not None else None


def _confidence(fault: PageFault) -> Confidence:
    """Proved: what the tables predict for this access is what was pushed, and the access is one
    that the instruction makes (where its bytes are to be had) or the CPU made for a delivery; a
    stack that no layout tells of has a recursion on it."""
    explanation = fault.explanation
    by_the_run_alone = fault.kind.part == "run" and _recursion(fault) is None
    if fault.cause.code is STALE_TLB or by_the_run_alone:
        return "likely"
    if explanation.course is not None:
        return explanation.confidence
    return "likely" if explanation.prediction.instruction is not None else "proved"
