"""Delivery of an exception or interrupt in 64-bit mode, step by step, as the CPU does it.

SDM vol. 3, 6.12 to 6.15; QEMU target/i386/tcg/seg_helper.c (do_interrupt64) and excp_helper.c
(check_exception). Where a step fails the CPU raises another exception; two that do not go together
become a double fault, and one during the delivery of a double fault shuts the CPU down. What the
simulation writes onto a stack is not kept: it asks whether it could be written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from breenix_gdbagent.addresses import VirtAddr, hex64
from breenix_gdbagent.arch.cpu import SystemSegment
from breenix_gdbagent.arch.descriptors import Gate
from breenix_gdbagent.cpumodel.context import (
    DF,
    GP,
    NP,
    PF,
    SS,
    TS,
    Context,
    Raised,
    refusal,
    vector_name,
)
from breenix_gdbagent.cpumodel.selectors import code_for_gate, conforming
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.descriptors import GATE_SIZE, INTERRUPT_GATE, TRAP_GATE, parse_gate
from breenix_gdbagent.x86.vectors import WITH_ERROR_CODE

Step = Literal["idt", "gate", "selector", "tss", "stack", "handler"]

IDT_ERROR = 2
"""Bit 1 of a selector error code: the index is a vector (SDM vol. 3, 6.13). Bit 0 (EXT), which
hardware sets during deliveries and TCG does not, is left out of what we predict."""
TSS_RSP0, TSS_IST1 = 4, 36
UNKNOWN_INTERRUPT = 32
_CONTRIBUTORY = frozenset({0, 10, 11, 12, 13, 21})  # SDM vol. 3, table 6-4


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to deliver `event`. `raised` is what came instead, at `step`; None: delivered.

    `stack` says which stack was chosen (``IST1``, ``RSP0``, ``RSP``), `top` is its value before
    the pushes (aligned to 16); both None when it did not come that far. `entry_rsp` is RSP at
    the handler's first instruction when delivered.
    """

    event: Raised
    step: Step | None = None
    raised: Raised | None = None
    gate: Gate | None = None
    stack: str | None = None
    top: VirtAddr | None = None

    @property
    def entry_rsp(self) -> VirtAddr | None:
        if self.raised is not None or self.top is None:
            return None
        return VirtAddr(self.top - 8 * _words(self.event))


@dataclass(frozen=True, slots=True)
class Course:
    """What came of `first`: every try in order, and how it ended.

    `end` is ``delivered`` (the last attempt's handler starts) or ``shutdown`` (triple fault).
    `cr2` is CR2 then, None when no #PF was raised on the way, so that it is what it was before.
    """

    first: Raised
    attempts: tuple[Attempt, ...]
    end: Literal["delivered", "shutdown"]
    cr2: int | None

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]

    @property
    def vector(self) -> int | None:
        """The vector whose handler starts, None after a shutdown."""
        return self.last.event.vector if self.end == "delivered" else None

    @property
    def chain(self) -> tuple[str, ...]:
        """The events in order, the failed deliveries' own included."""
        words = [self.first.text]
        for attempt, after in zip(self.attempts, (*self.attempts[1:], None), strict=True):
            if attempt.raised is not None:
                words.append(attempt.raised.text)
            if after is not None and after.event != attempt.raised:
                words.append(after.event.text)
        if self.end == "shutdown":
            words.append("triple fault")
        return tuple(words)


def _words(event: Raised) -> int:
    return 6 if event.origin == "exception" and event.vector in WITH_ERROR_CODE else 5


def run(context: Context, first: Raised) -> Course:
    """Deliver `first` and whatever its delivery raises, to a handler or to shutdown.

    Raises `ReadError` where a step depends on memory that we do not have.
    """
    event, attempts, cr2 = first, list[Attempt](), first.address if first.vector == PF else None
    while True:
        attempt = deliver(context, event)
        attempts.append(attempt)
        raised = attempt.raised
        if raised is None:
            return Course(first, tuple(attempts), "delivered", cr2)
        if raised.vector == PF:
            cr2 = raised.address
        if event.vector == DF and event.origin == "exception":
            return Course(first, tuple(attempts), "shutdown", cr2)
        event = (
            Raised(DF, 0, why="two exceptions that cannot be handled one after the other")
            if (makes_double_fault(event, raised))
            else raised
        )


def makes_double_fault(first: Raised, second: Raised) -> bool:
    """SDM vol. 3, table 6-5: contributory after contributory, or either kind after #PF."""
    if first.origin != "exception":
        return False
    contributory = second.vector in _CONTRIBUTORY
    if first.vector == PF:
        return contributory or second.vector == PF
    return first.vector in _CONTRIBUTORY and contributory


def deliver(context: Context, event: Raised) -> Attempt:
    """One delivery, as far as it comes. Raises `ReadError`, see `run`."""
    vector = event.vector if event.vector >= 0 else UNKNOWN_INTERRUPT
    found = _fetch_gate(context, vector, event)
    if isinstance(found, Raised):
        return Attempt(event, "idt", _unnamed(event, _without_idt(context, found)))
    gate = found
    if (wrong := _gate_fault(context, vector, gate, event)) is not None:
        return Attempt(event, "gate", _unnamed(event, _without_idt(context, wrong)), gate)
    segment = code_for_gate(context, gate)
    if isinstance(segment, Raised):
        return Attempt(event, "selector", segment, gate)
    ring = context.cpl if conforming(segment) else segment.dpl
    stack, top = "RSP", context.rsp
    if gate.ist or ring < context.cpl:
        stack = f"IST{gate.ist}" if gate.ist else f"RSP{ring}"
        chosen = _stack_of_tss(context, TSS_IST1 + 8 * (gate.ist - 1) if gate.ist else TSS_RSP0)
        if isinstance(chosen, Raised):
            return Attempt(event, "tss", chosen, gate, stack)
        top = chosen
    top &= -16
    if (failed := _push(context, stack, top, _words(event))) is not None:
        return Attempt(event, "stack", failed, gate, stack, VirtAddr(top))
    return Attempt(event, None, None, gate, stack, VirtAddr(top))


def _unnamed(event: Raised, failed: Raised) -> Raised:
    """Without the error code that names the vector, where that is not known."""
    return replace(failed, error_code=None) if event.vector < 0 and failed.vector != PF else failed


def _without_idt(context: Context, failed: Raised) -> Raised:
    """The same, said as what it is where nobody has loaded an IDT on that CPU."""
    cpu = context.cpu
    if not cpu.idt_never_loaded or cpu.idtr is None:
        return failed
    limit = "not known" if cpu.idtr.limit is None else f"{cpu.idtr.limit:#x}"
    why = f"no IDT is loaded on CPU {cpu.index} (IDTR has base 0x0 and limit {limit})"
    return replace(failed, why=why)


def _fetch_gate(context: Context, vector: int, event: Raised) -> Gate | Raised:
    table = context.cpu.idtr
    if table is None:
        raise ReadError("IDTR is not known")
    offset = vector * GATE_SIZE
    if table.limit is not None and offset + GATE_SIZE - 1 > table.limit:
        why = f"the IDT has no entry for {vector_name(vector)}: its limit is {table.limit:#x}"
        return Raised(GP, vector * 8 + IDT_ERROR, table.base + offset, why)
    at = table.base + offset & (1 << 64) - 1
    if not context.canonical(at):
        return Raised(GP, 0, at, f"the IDT's address {hex64(at)} is not canonical")
    fault = context.page_fault(at, GATE_SIZE, "read", user=False)
    if fault is not None:
        why = f"the IDT entry of {vector_name(vector)} at {hex64(at)} {refusal(fault)}"
        return replace(fault, why=why, own=True)
    raw = context.read(at, GATE_SIZE)
    gate = parse_gate(vector, raw)
    # S (bit 4 of the type byte) makes it a code or data descriptor, which no gate is.
    return replace(gate, type=gate.type | raw[5] & 0x10)


def _gate_fault(context: Context, vector: int, gate: Gate, event: Raised) -> Raised | None:
    error, name = vector * 8 + IDT_ERROR, vector_name(vector)
    if gate.type not in (INTERRUPT_GATE, TRAP_GATE):
        why = f"the IDT entry of {name} is of type {gate.type:#x}, no 64-bit gate"
        if not gate.present:
            why = f"the IDT entry of {name} is not present, and no gate"
        return Raised(GP, error, None, why)
    if event.origin == "software" and gate.dpl < context.cpl:
        why = (
            f"int {vector:#x} from ring {context.cpl} needs a gate of DPL 3, and it has {gate.dpl}"
        )
        return Raised(GP, error, None, why)
    if not gate.present:
        return Raised(NP, error, None, f"the gate of {name} is not present")
    return None


def _stack_of_tss(context: Context, offset: int) -> int | Raised:
    tr: SystemSegment | None = context.cpu.tr
    if tr is None:
        raise ReadError("TR is not known")
    if tr.limit is not None and offset + 7 > tr.limit:
        why = f"the TSS is too short: its limit is {tr.limit:#x}"
        return Raised(TS, tr.selector & 0xFFFC, tr.base + offset, why)
    at = tr.base + offset
    fault = context.page_fault(at, 8, "read", user=False)
    if fault is not None:
        why = f"the TSS at {hex64(tr.base)} {refusal(fault)}"
        return replace(fault, why=why, own=True)
    return int.from_bytes(context.read(at, 8), "little")


def _push(context: Context, stack: str, top: int, words: int) -> Raised | None:
    """The first push that fails, from the top down; the CPU's own writes, whatever ring it was."""
    for count in range(1, words + 1):
        at = top - 8 * count & (1 << 64) - 1
        if not context.canonical(at):
            return Raised(SS, 0, at, f"{stack} {hex64(top)} leads to no canonical address")
        if count == 1 or at & 0xFFF == 0xFF8:
            fault = context.page_fault(at, 8, "write", user=False)
            if fault is not None:
                why = f"the frame could not be pushed onto {stack}, at {hex64(at)}"
                return replace(fault, why=why, own=True)
    return None


def handler_fault(context: Context, attempt: Attempt) -> Raised | None:
    """What fetching a delivered event's handler raises: a fault of its own, after the delivery.

    Raises `ReadError` where the tables in the way are not to be had.
    """
    if attempt.gate is None or attempt.raised is not None:
        return None
    at = attempt.gate.offset
    if not context.canonical(at):
        return Raised(GP, 0, at, f"the handler's address {hex64(at)} is not canonical")
    fault = context.page_fault(at, 1, "fetch", user=False)
    if fault is None:
        return None
    return Raised(PF, fault.error_code, at, f"the handler at {hex64(at)} cannot be fetched")
