"""What the program that was interrupted would do next: the exceptions its instruction raises.

A prediction rests on registers, tables and memory alone, and never looks at what the CPU pushed:
where the two agree the explanation is proved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from breenix_gdbagent.addresses import PAGE, hex64
from breenix_gdbagent.cpumodel import rules
from breenix_gdbagent.cpumodel.context import (
    AC,
    GP,
    MF,
    PF,
    RFLAGS_AC,
    RFLAGS_IF,
    SS,
    UD,
    XM,
    Context,
    Raised,
)
from breenix_gdbagent.cpumodel.instruction import Access, Instruction
from breenix_gdbagent.cpumodel.selectors import code_bits, runs_32_bit
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.control import LONGEST_INSTRUCTION

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the instruction at RIP is and raises.

    `raised` is in the order of the CPU's checks: the first is what happens, the others would if
    the first did not. `instruction` None: none could be read or decoded there. `gap` says in words
    what could not be judged (unreadable memory, a register not known), empty when all was.
    """

    instruction: Instruction | None
    raised: tuple[Raised, ...]
    gap: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes at RIP up to the first page that cannot be fetched, and what that page raises."""

    code: bytes
    fault: Raised | None


def fetch(context: Context) -> Fetched:
    """Fetch the instruction at RIP. Raises `ReadError` where memory of ours is lacking."""
    rip = context.rip
    if not context.canonical(rip):
        why = f"RIP {hex64(rip)} is not canonical"
        return Fetched(b"", Raised(GP, 0, rip, why))
    here = min(LONGEST_INSTRUCTION, PAGE - rip % PAGE)
    fault = context.page_fault(rip, 1, "fetch")
    if fault is not None:
        return Fetched(b"", replace(fault, why="the instruction itself cannot be fetched"))
    code = context.read(rip, here)
    if here == LONGEST_INSTRUCTION:
        return Fetched(code, None)
    after = rip + here & _MASK
    fault = context.page_fault(after, 1, "fetch")
    if fault is not None:
        return Fetched(code, replace(fault, why="the rest of the instruction cannot be fetched"))
    try:
        return Fetched(code + context.read(after, LONGEST_INSTRUCTION - here), None)
    except ReadError:
        return Fetched(code, None)


def predict(context: Context) -> Prediction:
    """Decode the instruction at RIP and say what it raises. Never raises: a `gap` says what could
    not be looked at."""
    from breenix_gdbagent.cpumodel.decoding import decode

    try:
        fetched = fetch(context)
    except ReadError as lacking:
        return Prediction(None, (), f"the instruction at {hex64(context.rip)}: {lacking.what}")
    if fetched.code and runs_32_bit(context):
        return _narrow(context, fetched.code)
    instruction = decode(fetched.code, context.rip, context.registers) if fetched.code else None
    if instruction is None:
        if fetched.fault is not None:
            return Prediction(None, (fetched.fault,))
        if len(fetched.code) < LONGEST_INSTRUCTION:
            return Prediction(None, (), "the rest of the instruction cannot be read")
        what = fetched.code.hex(" ")
        return Prediction(None, (Raised(UD, why=f"the bytes {what} are no instruction"),))
    found: list[Raised] = []
    gap = ""
    for part in (rules.before, _memory, rules.after):
        if part is rules.after and found:
            break  # what it asks of values comes only when the accesses succeeded
        try:
            found += part(context, instruction)
        except ReadError as lacking:
            gap = gap or lacking.what
    if not gap and any(a.address is None for a in instruction.accesses):
        gap = "a register of its address is not known any more"
    return Prediction(instruction, tuple(found), gap)


def _narrow(context: Context, code: bytes) -> Prediction:
    """An instruction in compatibility mode: decoded, and of what it does its memory operands are
    judged alone."""
    from breenix_gdbagent.cpumodel.decoding import decode

    bits = code_bits(context)
    instruction = decode(code, context.rip, context.registers, bits)
    if instruction is None:
        return Prediction(None, (), f"the bytes there are no instruction of {bits}-bit code")
    gap = f"of {bits}-bit code only what its memory operands do is judged"
    operands = tuple(a for a in instruction.accesses if a.what == "its memory operand")
    judged = replace(instruction, accesses=operands)
    try:
        return Prediction(judged, tuple(_memory(context, judged)), gap)
    except ReadError as lacking:
        return Prediction(judged, (), lacking.what)


def possible(context: Context, prediction: Prediction) -> Iterator[Raised]:
    """What the instruction may raise depending on state that a stop does not have (MSRs, pending
    x87 and SSE exceptions, alignment checks). Where it could not be read or judged, any of the
    common faults, their own address unknown. Not NMI: it could explain everything."""
    instruction = prediction.instruction
    if instruction is not None:
        yield from _by_hidden_state(context, instruction)
    if context.cpl == 3 and context.rflags & RFLAGS_AC:
        yield Raised(AC, 0, why="an access was not aligned, with alignment checks on")
    if prediction.gap and not prediction.raised:
        lacking = "" if prediction.instruction else " (its bytes are not at hand)"
        for vector in (PF, GP, UD):
            code = 0 if vector == GP else None
            yield Raised(vector, code, None, f"the instruction there raised it{lacking}")


def _by_hidden_state(context: Context, instruction: Instruction) -> Iterator[Raised]:
    name, registers = instruction.name, context.registers
    if instruction.unit == "x87" and "fstat" not in registers:
        yield Raised(MF, why="an unmasked x87 exception was pending")
    if instruction.unit in ("sse", "avx"):
        yield Raised(XM, why="an unmasked SSE exception came up")
    if context.cpl == 0 and name in ("rdmsr", "wrmsr"):
        msr = hex64(registers["rcx"] & 0xFFFF_FFFF) if "rcx" in registers else "that RCX names"
        yield Raised(
            GP, 0, why=f"{name} of MSR {msr}: the CPU has no such MSR or refuses the value"
        )
    if context.cpl == 0 and (
        name == "xsetbv"
        or (instruction.operands and (instruction.operands[0].name.startswith(("cr", "dr"))))
    ):
        yield Raised(GP, 0, why="it sets bits that this CPU does not have")
    yield from rules.selector_not_known(context, instruction)
    for raised in rules.accessed(context, instruction):
        why = f"{raised.why} (hardware does so for this instruction, QEMU's TCG does not)"
        yield replace(raised, why=why)


def interrupts(context: Context) -> Iterator[Raised]:
    """The events from outside that could have come before the instruction ran."""
    if context.rflags & RFLAGS_IF:
        if context.served is not None:
            why = "the PIC has that interrupt in service, and interrupts were on"
            yield Raised(context.served, None, None, why, "interrupt")
        yield Raised(-1, None, None, "an interrupt came while interrupts were on", "interrupt")


def _memory(context: Context, instruction: Instruction) -> Iterator[Raised]:
    for access in instruction.accesses:
        if access.address is not None:
            yield from _access(context, instruction, access, access.address)


def _access(
    context: Context, instruction: Instruction, access: Access, at: int
) -> Iterator[Raised]:
    """What one access raises: non-canonical, misaligned, then page by page (SDM table 6-2)."""
    last = at + access.size - 1
    does = {"read": "reads", "write": "writes", "update": "updates", "fetch": "fetches"}
    story = f"it {does[access.kind]} {access.what} at {hex64(at)}"
    if last > _MASK or not context.canonical(at) or not context.canonical(last):
        why = f"{story}, which is not canonical"
        at = last & -(1 << 12) if context.canonical(at) else at
        if access.stack:
            yield Raised(SS, 0, at, why)
        # For the stack too TCG raises #GP (target/i386/tcg/sysemu/excp_helper.c).
        yield Raised(GP, 0, at, why)
        return
    if instruction.aligned > 1 and at % instruction.aligned and access.size > 1:
        yield Raised(GP, 0, at, f"{story}, which is not aligned to {instruction.aligned} bytes")
    for kind in ("read", "write") if access.kind == "update" else (access.kind,):
        fault = context.page_fault(at, access.size, kind)
        if fault is not None:
            yield replace(fault, why=story)
