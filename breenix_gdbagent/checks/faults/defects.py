"""Why a delivery failed, as a finding of its own: the stack, gate, table or handler to blame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr, hex64
from breenix_gdbagent.arch.walks import NOT_PRESENT
from breenix_gdbagent.checks import kernel_stacks
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, SHORT, SPREAD, Facts
from breenix_gdbagent.checks.faults import address_kind as kinds
from breenix_gdbagent.checks.faults.address_kind import AddressKind
from breenix_gdbagent.checks.faults.cause import (
    GUARD_PAGE,
    NON_CANONICAL,
    RESERVED,
    SMAP,
    UNMAPPED,
    WRITE_PROTECTED,
)
from breenix_gdbagent.checks.faults.descriptors import (
    GATE_MISSING,
    GDT_UNMAPPED,
    HANDLER_UNMAPPED,
    RSP0_INVALID,
)
from breenix_gdbagent.checks.faults.overrun import Recursion, advice, kind_under, recursion
from breenix_gdbagent.checks.finding import Code, Finding, Where, place_of
from breenix_gdbagent.cpumodel.context import NP, PF, Context, Raised, vector_name
from breenix_gdbagent.cpumodel.delivery import Attempt, Course, handler_fault
from breenix_gdbagent.cpumodel.selectors import SELECTOR
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86 import verdict as verdicts
from breenix_gdbagent.x86.exceptions import PF_PRESENT, PF_RESERVED, PF_WRITE

MOST_SHOWN = 8

Flaw = Literal[
    "delivery", "read-only", "ist-unmapped", "rsp0-unmapped", "rsp0-no-top", "rsp-ran-over",
    "rsp-non-canonical", "rsp-refused", "rsp-unmapped-here", "rsp-unmapped", "table-unmapped",
    "stack-not-here", "gate",
    "handler", "handler-not-fetched",
]  # fmt: skip
"""What is wrong: ``delivery``, ``gate`` (the IDT has no gate there that leads to a handler) and
``handler`` have it in the CPU model's words (`why`), the others
are a stack that cannot be written, a stack pointer that leads to none, a descriptor table that is
not mapped, the kernel's own stack that only this space lacks, and RIP at a handler's start."""


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong with the machine, at `va`, under `root` (`space`).

    `name` is the stack or vector concerned; `pointer` and `top` the stack pointer that was chosen
    (``RSP``, ``RSP0``, ``IST1``) and where it leads. `advice` is what to do, where the code's own
    advice says more than is meant here.
    """

    code: Code
    flaw: Flaw
    subject: str
    va: int | None
    root: PhysAddr
    space: Space | None
    kind: AddressKind | None = None
    name: str = ""
    pointer: str = ""
    top: int = 0
    why: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkEnd(Facts):
    """Why the walk of the place ends, and the first spaces that map it."""

    walk_reason: str | None
    mapped_in: Annotated[tuple[Space, ...], SHORT]


@dataclass(frozen=True, slots=True, kw_only=True)
class RootRow(Facts):
    """The space that the fault came in, as far as it is known."""

    root: PhysAddr
    role: str | None
    pid: int | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackExtent(Facts):
    """The stack that is concerned."""

    stack: str
    bottom: VirtAddr
    top: VirtAddr
    pages: int
    spaces: tuple[RootRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DefectFacts(Facts):
    """What a fault rests on."""

    end: Annotated[WalkEnd | None, SPREAD]
    extent: Annotated[StackExtent | None, SPREAD]
    recursion: Annotated[Recursion | None, IF_KNOWN]
    defect: Annotated[Defect, ASIDE]

    @property
    def about(self) -> str | None:
        own = self.extent is None or self.defect.subject == "TSS"
        return None if own or self.extent is None else self.extent.stack


def defects_of(kernel: Kernel, context: Context, course: Course) -> tuple[Defect, ...]:
    """One for each failed delivery of the course, each once, the root of all first."""
    found: list[Defect] = []
    for attempt in course.attempts:
        defect = defect_of(kernel, context, attempt)
        if defect is not None and all(
            (d.code, d.subject) != (defect.code, defect.subject) for d in found
        ):
            found.append(defect)
    return tuple(found)


def defect_of(kernel: Kernel, context: Context, attempt: Attempt) -> Defect | None:
    """What made one delivery fail; None when it succeeded, or failed by the program's own doing
    (a software interrupt through a gate that its ring may not use)."""
    raised = attempt.raised
    if raised is None:
        return None
    name = vector_name(attempt.event.vector)
    here = _Here(kernel, context, raised.address)
    if context.cpu.idt_never_loaded and attempt.step in ("idt", "gate"):
        return here.defect(HANDLER_UNMAPPED, "gate", "IDT", why=raised.why, advice=_LOAD_IDT)
    if attempt.step == "idt":
        advice = "" if raised.vector == PF else _WHOLE_IDT
        code = _of_table(raised, HANDLER_UNMAPPED)
        return here.defect(code, "gate", "IDT", why=raised.why, advice=advice)
    if attempt.step == "gate":
        gate = attempt.gate
        if gate is None or not gate.present:
            return here.defect(GATE_MISSING, "gate", name, why=raised.why)
        if attempt.event.origin == "software" and gate.dpl < context.cpl:
            return None
        return here.defect(HANDLER_UNMAPPED, "gate", name, why=raised.why, advice=_GATE_TYPE)
    if attempt.step == "selector":
        # The descriptor is out of reach or not present; else the gate names a wrong one.
        if raised.address is not None or raised.vector == NP:
            code = _of_table(raised, GDT_UNMAPPED)
            return here.defect(code, "delivery", "GDT", why=raised.why)
        return here.defect(HANDLER_UNMAPPED, "gate", name, why=raised.why, advice=_GATE_CODE)
    tr = context.cpu.tr
    if attempt.stack not in (None, "RSP") and tr is not None and not tr.selector & SELECTOR:
        read = f"{attempt.stack} was read from what lies at {hex64(tr.base)}"
        why = f"no TSS is loaded on CPU {context.cpu.index} (TR is null), and {read}: {raised.why}"
        return here.defect(RSP0_INVALID, "delivery", "TSS", why=why, advice=_LOAD_TSS)
    if attempt.step == "tss":
        return here.defect(RSP0_INVALID, "delivery", "TSS", why=raised.why)
    return _of_stack(kernel, context, attempt, raised)


_LOAD_IDT = "Load IDTR on that CPU (lidt) before anything can fault there."
_LOAD_TSS = (
    "Load TR (ltr) with a TSS whose RSP0, and the IST entries that gates name, are tops of stacks, "
    "before ring 3 is entered or such a gate is used."
)
_WHOLE_IDT = (
    "Give the IDT an entry for each vector that comes, those below 32 at least: lidt takes its "
    "size in bytes minus one, 16 for each entry."
)
_GATE_TYPE = "Make it a 64-bit interrupt gate (type 0xE) or trap gate (0xF)."
_GATE_CODE = (
    "Put the selector of the kernel's 64-bit code segment, as it is in the GDT that is loaded, "
    "into each gate."
)


def _of_table(raised: Raised, unmapped: Code) -> Code:
    """`unmapped` of a descriptor table that is not there; one that is and refuses the CPU's own
    access has the code of that page fault."""
    code = raised.error_code or 0
    if raised.vector != PF or not code & PF_PRESENT:
        return unmapped
    if code & PF_RESERVED:
        return RESERVED
    return WRITE_PROTECTED if code & PF_WRITE else SMAP


@dataclass(frozen=True, slots=True)
class _Here:
    """Makes the defects of one place."""

    kernel: Kernel
    context: Context
    va: int | None
    kind: AddressKind | None = None
    pointer: str = ""
    top: int = 0
    name: str = ""

    def defect(
        self, code: Code, flaw: Flaw, subject: str, *, why: str = "", advice: str = ""
    ) -> Defect:
        root = self.context.root
        return Defect(
            code,
            flaw,
            subject,
            self.va,
            root,
            self.kernel.space_of(root),
            self.kind,
            self.name or subject,
            self.pointer,
            self.top,
            why,
            advice,
        )


def _of_stack(kernel: Kernel, context: Context, attempt: Attempt, raised: Raised) -> Defect:
    """The stack that was chosen could not be written."""
    assert raised.address is not None and attempt.top is not None and attempt.stack is not None
    va, pointer = raised.address, attempt.stack
    kind = kind_under(kernel, context, va)
    name = kind.stack.name if kind.stack is not None else pointer
    top = context.rsp if pointer == "RSP" else attempt.top
    here = _Here(kernel, context, va, kind, pointer, top, name)
    if raised.error_code is not None and raised.error_code & PF_PRESENT and raised.vector == PF:
        here = replace(here, top=attempt.top)
        cause = context.verdict(va, "write", user=False).cause
        if cause in _REFUSED_PUSH:
            return here.defect(_REFUSED_PUSH[cause], "rsp-refused", name)
        return here.defect(kernel_stacks.READ_ONLY, "read-only", name)
    if pointer.startswith("IST"):
        return here.defect(kernel_stacks.IST_UNMAPPED, "ist-unmapped", name)
    known = kind.name == kinds.KERNEL_STACK and kind.stack in kinds.known_stacks(kernel)
    if pointer == "RSP":
        return _of_rsp(here, kind, known)
    if (known and kind.stack is not None and attempt.top == kind.stack.top) or (
        kind.name not in (kinds.GUARD_PAGE, kinds.KERNEL_STACK)
        and mapped_elsewhere(kernel, context, va)
    ):
        return here.defect(kernel_stacks.UNMAPPED, "rsp0-unmapped", name)
    return here.defect(RSP0_INVALID, "rsp0-no-top", "TSS")


_REFUSED_PUSH = {verdicts.RESERVED_BIT: RESERVED, verdicts.SMAP: SMAP}
"""Why a stack that is mapped refuses a push, other than that it is read-only."""


def _of_rsp(here: _Here, kind: AddressKind, known: bool) -> Defect:
    if kind.name in (kinds.GUARD_PAGE, kinds.BELOW_IST):
        return here.defect(GUARD_PAGE, "rsp-ran-over", here.name)
    if kind.name == kinds.NON_CANONICAL:
        return here.defect(NON_CANONICAL, "rsp-non-canonical", here.name)
    if known or mapped_elsewhere(here.kernel, here.context, here.va or 0):
        return here.defect(kernel_stacks.UNMAPPED, "rsp-unmapped-here", here.name)
    return here.defect(UNMAPPED, "rsp-unmapped", here.name)


def implicit_defect(
    kernel: Kernel, context: Context, raised: Raised, kind: AddressKind
) -> Defect | None:
    """The defect behind an access of the CPU's own when the delivery it belonged to could not be
    played forward: by the place alone. None where a table is mapped and refuses the access: that is
    the page fault itself."""
    va = raised.address
    if va is None:
        return None
    code = {kinds.GDT: GDT_UNMAPPED, kinds.IDT: HANDLER_UNMAPPED, kinds.TSS: RSP0_INVALID}.get(
        kind.name
    )
    if code is not None:
        if kernel.walk(context.root, va).reason != NOT_PRESENT:
            return None
        here = _Here(kernel, context, va, kind)
        return here.defect(code, "table-unmapped", kind.name.upper())
    tss = kernel.tss.get(context.cpu.index)
    if tss is None:
        return None
    tops = {"RSP0": tss.rsp0, **{f"IST{i}": top for i, top in enumerate(tss.ist, 1)}}
    for name, top in tops.items():
        if top and top - 64 <= va < top:
            attempt = Attempt(raised, "stack", raised, None, name, VirtAddr(top & -16))
            return _of_stack(kernel, context, attempt, raised)
    return None


def stack_not_here(kernel: Kernel, context: Context, va: int, kind: AddressKind) -> Defect | None:
    """The kernel stack that the kernel touched at `va` and that other spaces map: a switch of CR3
    left the stack behind that it runs on. None where it is another address, or nobody's."""
    if context.cpl or kind.name != kinds.KERNEL_STACK or kind.stack is None:
        return None
    if kernel.walk(context.root, va).reason != NOT_PRESENT:
        return None
    if kind.stack not in kinds.known_stacks(kernel) or not mapped_elsewhere(kernel, context, va):
        return None
    here = _Here(kernel, context, va, kind)
    return here.defect(kernel_stacks.UNMAPPED, "stack-not-here", kind.stack.name)


def only_worse(defect: Defect) -> bool:
    """Whether it turned a fault into a worse one and is not why the fault came: no gate took it, or
    no IDT."""
    return defect.flaw == "gate"


def handler_defect(kernel: Kernel, context: Context, attempt: Attempt) -> Defect | None:
    """The handler that the CPU went to cannot be executed; None where it can, or is not known."""
    try:
        fault = handler_fault(context, attempt)
    except ReadError:
        return None
    if fault is None:
        return None
    here = _Here(kernel, context, fault.address)
    return here.defect(
        HANDLER_UNMAPPED, "handler", vector_name(attempt.event.vector), why=fault.why
    )


def handler_of_rip(kernel: Kernel, context: Context) -> Defect | None:
    """RIP is the first address of a gate's handler, and cannot be fetched: the handler is to
    blame, whatever its own faults led to."""
    if context.cpl:
        return None
    try:
        vectors = [v for v, g in kernel.gates.items() if g.offset == context.rip]
        fault = context.page_fault(context.rip, 1, "fetch") if vectors else None
    except ReadError:
        return None
    if fault is None:
        return None
    here = _Here(kernel, context, context.rip)
    return here.defect(HANDLER_UNMAPPED, "handler-not-fetched", vector_name(vectors[0]))


def mapped_elsewhere(kernel: Kernel, context: Context, va: int) -> tuple[Space, ...]:
    """The audited spaces other than this context's that map `va`."""
    return tuple(
        s for s in kernel.audited if s.root != context.root and kernel.walk(s.root, va).mapped
    )


def on_boot_tables(kernel: Kernel, context: Context) -> bool:
    """Whether CR3 is the bootloader's PML4, which lacks what the master got later."""
    space = kernel.space_of(context.root)
    return space is not None and space.role == "boot"


def finding_of(kernel: Kernel, context: Context, defect: Defect) -> Finding:
    """The defect as a finding, with the walk that shows it."""
    where, end = Where(root=context.root), None
    if defect.va is not None:
        walk = kernel.walk(context.root, defect.va)
        where = place_of(walk)
        others = mapped_elsewhere(kernel, context, defect.va)
        end = WalkEnd(walk_reason=walk.reason, mapped_in=others[:MOST_SHOWN])
    round_ = recursion(kernel, context, defect.kind)
    facts = DefectFacts(end=end, extent=_extent(defect), recursion=round_, defect=defect)
    told = defect.advice or ("" if defect.kind is None else advice(kernel, defect.kind))
    return Finding(defect.code, defect.subject, facts, where, advice=told, severity="error")


def _extent(defect: Defect) -> StackExtent | None:
    if defect.kind is None or defect.kind.stack is None:
        return None
    stack, space = defect.kind.stack, defect.space
    row = RootRow(
        root=defect.root,
        role=space.role if space else None,
        pid=space.pid if space else None,
        name=space.name if space else None,
    )
    return StackExtent(
        stack=stack.name,
        bottom=stack.bottom,
        top=stack.top,
        pages=stack.size // PAGE,
        spaces=(row,),
    )


def findings_of(
    kernel: Kernel, context: Context, defects: tuple[Defect, ...]
) -> tuple[Finding, ...]:
    """One finding for each."""
    return tuple(finding_of(kernel, context, defect) for defect in defects)
