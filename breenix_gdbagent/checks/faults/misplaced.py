"""An interrupt that comes at the vector of an exception: nothing has faulted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.addresses import Hex
from breenix_gdbagent.checks.facts import ASIDE
from breenix_gdbagent.checks.faults.interrupted import FaultFacts, interrupted, subject
from breenix_gdbagent.checks.finding import Confidence, Finding, Where, declare
from breenix_gdbagent.cpumodel.context import RFLAGS_IF, Context, vector_name
from breenix_gdbagent.cpumodel.explanation import Explanation
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.event import Event
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.pic import WIRED
from breenix_gdbagent.x86.vectors import WITH_ERROR_CODE

NOT_REMAPPED = declare(
    "pic.not-remapped",
    "error",
    "an interrupt came at the vector of an exception",
    arises="The PIC is as the firmware left it (SeaBIOS: lines 0 to 7 at vectors 8 to 15), or was "
    "given vectors below 32, and interrupts were switched on: the first tick of the timer looks "
    "like a double fault. So does any interrupt that an APIC, an MSI or an IPI sends at a vector "
    "below 32. Nothing faulted.",
    confirm="No error code is on the stack where the exception would have pushed one; QEMU's `info "
    "pic` has irq_base below 20 and the line's bit in isr.",
    mend="Before sti write the PIC's initialisation words, with vectors 0x20 and 0x28, or mask all "
    "its lines (0xff to ports 0x21 and 0xa1); give APIC, MSI and IPI vectors from 32 up.",
    kind="event",
)

_NEVER_RAISED = (9, 15)
"""Vectors of no exception on any 64-bit CPU (SDM vol. 3, table 6-1)."""
_INT = 0xCD


@dataclass(frozen=True, slots=True, kw_only=True)
class MisplacedFacts(FaultFacts):
    """An interrupt at an exception's vector. `irq` is the PIC's line that comes there, with what is
    wired to it on a PC, and `in_service` whether the PIC says that it is being served; None where
    the PIC's state is not known or has no such line. `bases` are the vectors of its lines 0 and 8.
    `coded` is whether this vector's exception pushes an error code, which nobody pushed."""

    vector: int
    exception: str
    irq: int | None
    wired: str | None
    bases: tuple[Hex, ...] | None
    in_service: bool | None
    coded: Annotated[bool, ASIDE]


def interrupt(kernel: Kernel, event: Event, explanation: Explanation) -> Finding | None:
    """The finding where what came at an exception's vector was an interrupt; None for an exception,
    and where nothing tells.

    An interrupt pushes no error code, comes only while RFLAGS.IF is set, and its line is in service
    at the PIC until the handler has written the end of it.
    """
    context = explanation.context
    if not event.rflags & RFLAGS_IF or _by_instruction(context, event.vector):
        return None
    pic = kernel.stop.pic
    irq = pic.irq_at(event.vector) if pic is not None else None
    served = pic.serves(irq) if pic is not None and irq is not None else None
    coded = event.vector in WITH_ERROR_CODE
    bare = coded and event.error_code is None
    course = explanation.course
    explained = course is not None and course.first.origin == "exception"
    if not bare and event.vector not in _NEVER_RAISED and (explained or not served):
        return None
    facts = MisplacedFacts(
        at=interrupted(kernel, context, explanation.prediction.instruction),
        vector=event.vector,
        exception=vector_name(event.vector),
        irq=irq,
        wired=WIRED.get(irq) if irq is not None else None,
        bases=None if pic is None else tuple(Hex(chip.base) for chip in pic),
        in_service=served,
        coded=bare,
    )
    sure: Confidence = "proved" if served else "likely"
    return Finding(
        NOT_REMAPPED,
        subject(kernel, context),
        facts,
        Where(root=context.root),
        chain=(f"interrupt at vector {event.vector}",),
        confidence=sure,
    )


def _by_instruction(context: Context, vector: int) -> bool:
    """Whether the program asked for it: ``int n`` is what RIP is behind."""
    try:
        return context.read(context.rip - 2, 2) == bytes((_INT, vector))
    except ReadError:
        return False
