"""Why a delivery failed, as a finding of its own: the stack, gate, table or handler to blame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from breenix_gdbagent.addresses import PAGE, VirtAddr, hex64
from breenix_gdbagent.checks import kernel_stacks
from breenix_gdbagent.checks.faults import address_kind as kinds
from breenix_gdbagent.checks.faults.address_kind import AddressKind, kind_of
from breenix_gdbagent.checks.faults.cause import GUARD_PAGE, NON_CANONICAL, UNMAPPED
from breenix_gdbagent.checks.faults.descriptors import (
    GATE_MISSING,
    GDT_UNMAPPED,
    HANDLER_UNMAPPED,
    RSP0_INVALID,
)
from breenix_gdbagent.checks.finding import Code, Finding, Where
from breenix_gdbagent.checks.prose import Prose
from breenix_gdbagent.cpumodel.context import NP, PF, Context, Raised, vector_name
from breenix_gdbagent.cpumodel.delivery import Attempt, Course, handler_fault
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import NOT_PRESENT


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong with the machine, at `va`; `said` is one sentence."""

    code: Code
    said: str
    subject: str
    va: int | None
    kind: AddressKind | None = None


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
    if attempt.step in ("idt", "gate"):
        gate = attempt.gate
        denied = gate is not None and gate.present and gate.dpl < context.cpl
        if attempt.event.origin == "software" and denied:
            return None
        return Defect(GATE_MISSING, raised.why, name, raised.address)
    if attempt.step == "selector":
        # The descriptor is out of reach or not present; else the gate names a wrong one.
        if raised.address is not None or raised.vector == NP:
            return Defect(GDT_UNMAPPED, raised.why, "GDT", raised.address)
        return Defect(GATE_MISSING, raised.why, name, None)
    if attempt.step == "tss":
        return Defect(RSP0_INVALID, raised.why, "TSS", raised.address)
    return _of_stack(kernel, context, attempt, raised)


def _of_stack(kernel: Kernel, context: Context, attempt: Attempt, raised: Raised) -> Defect:
    """The stack that was chosen could not be written."""
    assert raised.address is not None and attempt.top is not None and attempt.stack is not None
    va, kernel = raised.address, kernel
    kind = kind_of(kernel, va, context.root)
    name = kind.stack.name if kind.stack is not None else attempt.stack
    place = f"{attempt.stack} {hex64(attempt.top)}"
    under = _space_name(kernel, context)
    if raised.error_code is not None and raised.error_code & 1 and raised.vector == PF:
        said = f"{place} leads to {kind.text}, which cannot be written under {under}"
        return Defect(kernel_stacks.READ_ONLY, said, name, va, kind)
    if attempt.stack.startswith("IST"):
        said = f"the top of {name}, {hex64(va)}, is not mapped under {under}"
        return Defect(kernel_stacks.IST_UNMAPPED, said, name, va, kind)
    known = kind.name == kinds.KERNEL_STACK and kind.stack in kinds.known_stacks(kernel)
    if attempt.stack == "RSP":
        return _of_rsp(kernel, context, kind, known, va, name)
    if (known and kind.stack is not None and attempt.top == kind.stack.top) or (
        kind.name not in (kinds.GUARD_PAGE, kinds.KERNEL_STACK)
        and mapped_elsewhere(kernel, context, va)
    ):
        said = f"{kind.text} is not mapped under {under}, and RSP0 {hex64(attempt.top)} is its top"
        return Defect(kernel_stacks.UNMAPPED, said, name, va, kind)
    said = f"RSP0 {hex64(attempt.top)} is the top of no kernel stack: below it is {kind.text}"
    return Defect(RSP0_INVALID, said, "TSS", va, kind)


def _of_rsp(
    kernel: Kernel, context: Context, kind: AddressKind, known: bool, va: int, name: str
) -> Defect:
    under = _space_name(kernel, context)
    rsp = hex64(context.rsp)
    if kind.name in (kinds.GUARD_PAGE, kinds.BELOW_IST):
        said = f"RSP {rsp} has run into {kind.text}"
        return Defect(GUARD_PAGE, said, name, va, kind)
    if kind.name == kinds.NON_CANONICAL:
        return Defect(NON_CANONICAL, f"RSP {rsp} is not canonical", name, va, kind)
    if known or mapped_elsewhere(kernel, context, va):
        said = f"RSP {rsp} lies in {kind.text}, which is not mapped under {under}"
        return Defect(kernel_stacks.UNMAPPED, said, name, va, kind)
    return Defect(
        UNMAPPED, f"RSP {rsp} leads to {kind.text}, where nothing is mapped", name, va, kind
    )


def implicit_defect(
    kernel: Kernel, context: Context, raised: Raised, kind: AddressKind
) -> Defect | None:
    """The defect behind an access of the CPU's own when the delivery it belonged to could not be
    played forward: by the place alone."""
    va = raised.address
    if va is None:
        return None
    code = {kinds.GDT: GDT_UNMAPPED, kinds.IDT: GATE_MISSING, kinds.TSS: RSP0_INVALID}.get(
        kind.name
    )
    if code is not None:
        said = f"{kind.text} is not mapped at {hex64(va)} under {_space_name(kernel, context)}"
        return Defect(code, said, kind.name.upper(), va, kind)
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
    said = f"{kind.text} is not mapped under {_space_name(kernel, context)}, and is in other spaces"
    return Defect(kernel_stacks.UNMAPPED, said, kind.stack.name, va, kind)


def handler_defect(context: Context, attempt: Attempt) -> Defect | None:
    """The handler that the CPU went to cannot be executed; None where it can, or is not known."""
    try:
        fault = handler_fault(context, attempt)
    except ReadError:
        return None
    if fault is None:
        return None
    name = vector_name(attempt.event.vector)
    return Defect(HANDLER_UNMAPPED, f"{name}: {fault.why}", name, fault.address)


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
    name = vector_name(vectors[0])
    said = f"{name}: the handler at {hex64(context.rip)} cannot be fetched"
    return Defect(HANDLER_UNMAPPED, said, name, context.rip)


def mapped_elsewhere(kernel: Kernel, context: Context, va: int) -> tuple[Space, ...]:
    """The audited spaces other than this context's that map `va`."""
    return tuple(
        s for s in kernel.audited if s.root != context.root and kernel.walk(s.root, va).mapped
    )


def on_boot_tables(kernel: Kernel, context: Context) -> bool:
    """Whether CR3 is the bootloader's PML4, which lacks what the master got later."""
    space = kernel.space_of(context.root)
    return space is not None and space.role == "boot"


def _space_name(kernel: Kernel, context: Context) -> str:
    space = kernel.space_of(context.root)
    label = space.label if space is not None else "an unknown space"
    return f"CR3 {hex64(context.root)} ({label})"


def finding_of(kernel: Kernel, context: Context, defect: Defect) -> Finding:
    """The defect as a finding, with the walk that shows it."""
    space = kernel.space_of(context.root)
    evidence: dict[str, Json] = {"explanation": defect.said + "."}
    where = Where(root=context.root, va=defect.va)
    if defect.va is not None:
        walk = kernel.walk(context.root, defect.va)
        where = where_of(kernel, context, defect.va)
        evidence["walk_reason"] = walk.reason
        others = mapped_elsewhere(kernel, context, defect.va)
        evidence["mapped_in"] = list[Json](s.label for s in others[:8])
    if defect.kind is not None and defect.kind.stack is not None:
        stack = defect.kind.stack
        evidence |= {
            "stack": stack.name, "bottom": hex64(stack.bottom), "top": hex64(stack.top),
            "pages": stack.size // PAGE,
            "spaces": [{"root": hex64(context.root), "role": space.role if space else None,
                        "pid": space.pid if space else None,
                        "name": space.name if space else None}],
        }  # fmt: skip
    return Finding(
        defect.code,
        defect.subject,
        Prose(f"{defect.code.title}: {defect.said}", evidence),
        where,
        severity="error",
    )


def where_of(kernel: Kernel, context: Context, va: int) -> Where:
    """The place in the tables where the walk of `va` ended."""
    walk = kernel.walk(context.root, va)
    last = walk.entries[-1] if walk.entries else None
    return Where(
        context.root,
        va,
        walk.pa,
        last.raw if last else None,
        last.entry_pa if last else None,
        walk.stopped_at if walk.stopped_at is not None else (last.level if last else None),
    )


def findings_of(kernel: Kernel, context: Context, defects: tuple[Defect, ...]) -> Iterator[Finding]:
    """One finding for each."""
    for defect in defects:
        yield finding_of(kernel, context, defect)
