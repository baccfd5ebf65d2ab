"""Whether the address that faulted stands in the code: no register was wrong, the number is."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.cpumodel.context import Context
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.cpu import LONGEST_INSTRUCTION

_LONGEST_FUNCTION = 1 << 14
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Constant:
    """The instruction at `at` that has the address in itself: the one that faulted, or the last one
    before it in the function that loads the register it used."""

    at: int
    text: str
    own: bool


def constant_of(kernel: Kernel, context: Context, va: int) -> Constant | None:
    """Where `va` stands in the code, None where it was computed or that is not seen."""
    from breenix_gdbagent.x86.disassembler import REGISTER, detailed

    try:
        insn = detailed(context.read(context.rip, LONGEST_INSTRUCTION), context.rip)
    except ReadError:
        return None
    operands = [] if insn is None else [o for o in insn.operands if o.type not in (REGISTER, 2)]
    if insn is None or len(operands) != 1 or operands[0].mem.index:
        return None
    mem = operands[0].mem
    if mem.segment and insn.reg_name(mem.segment) in ("fs", "gs"):
        return None
    base = insn.reg_name(mem.base) if mem.base else ""
    if not base:
        own = mem.disp & _MASK == va
        return Constant(context.rip, f"{insn.mnemonic} {insn.op_str}", True) if own else None
    return None if base == "rip" else _loaded(kernel, context, base, va - mem.disp & _MASK)


def _loaded(kernel: Kernel, context: Context, register: str, value: int) -> Constant | None:
    """The instruction of the function that loads `value` into `register` last before RIP, without
    a jump or a call between them."""
    from breenix_gdbagent.x86.disassembler import disassemble

    image = kernel.stop.image
    hit = image.symbol_at(context.rip) if image is not None else None
    if image is None or hit is None:
        return None
    start = context.rip - hit.offset
    if not 0 < hit.offset < _LONGEST_FUNCTION:
        return None
    try:
        code = context.read(start, hit.offset)
    except ReadError:
        return None
    names = {register, f"e{register[1:]}" if register[1:].isalpha() else f"{register}d"}
    found: Constant | None = None
    for step in disassemble(code, start):
        target, _, rest = step.operands.partition(", ")
        if step.mnemonic.startswith(("j", "call", "loop")):
            found = None
        elif target in names:
            found = None
            if step.mnemonic in ("mov", "movabs") and _number(rest) == value:
                found = Constant(step.address, step.text, False)
    return found


def _number(text: str) -> int | None:
    try:
        return int(text, 0) & _MASK
    except ValueError:
        return None
