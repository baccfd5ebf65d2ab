"""x86-64 machine code as instructions, by capstone: the one place that knows its interface.

Importing this loads capstone, which is dear: import it where an instruction is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Protocol, cast

import capstone
from capstone import x86_const

from breenix_gdbagent.arch.cpu import Instruction
from breenix_gdbagent.x86.control import LONGEST_INSTRUCTION

# Kinds of operand, accesses to one, groups and registers, as `Detailed` has them.
REGISTER, IMMEDIATE = int(x86_const.X86_OP_REG), int(x86_const.X86_OP_IMM)
READ, WRITE = int(capstone.CS_AC_READ), int(capstone.CS_AC_WRITE)
GROUP_FPU, RSP = int(x86_const.X86_GRP_FPU), int(x86_const.X86_REG_RSP)


class Memory(Protocol):
    """A memory operand: register numbers (0: none), scale, displacement."""

    segment: int
    base: int
    index: int
    scale: int
    disp: int


class DetailedOperand(Protocol):
    """One operand: of its `type` `reg`, `imm` or `mem` holds."""

    type: int
    reg: int
    imm: int
    mem: Memory
    size: int
    access: int


class Detailed(Protocol):
    """One instruction with its operands taken apart."""

    address: int
    size: int
    mnemonic: str
    op_str: str
    bytes: bytearray
    operands: Sequence[DetailedOperand]
    groups: Sequence[int]
    addr_size: int

    def reg_name(self, number: int) -> str:
        """The name of a register by its number."""
        ...

    def insn_name(self) -> str:
        """The mnemonic without prefixes."""
        ...

    def regs_access(self) -> tuple[Sequence[int], Sequence[int]]:
        """Numbers of the registers it reads and of those it writes, implied ones included."""
        ...


@cache
def _engine(detail: bool, skip_data: bool, bits: int = 64) -> capstone.Cs:
    mode = {64: capstone.CS_MODE_64, 32: capstone.CS_MODE_32, 16: capstone.CS_MODE_16}[bits]
    engine = capstone.Cs(capstone.CS_ARCH_X86, mode)
    engine.detail = detail
    engine.skipdata = skip_data
    return engine


def disassemble(
    code: bytes, address: int, most: int = 0, *, skip_data: bool = False
) -> Iterator[Instruction]:
    """The instructions of `code`, at most so many (0: all), up to the first bytes that are none;
    `skip_data`: those come as ``.byte`` and it goes on behind them."""
    engine = _engine(False, skip_data)
    for found in engine.disasm_lite(code, address, most):
        yield Instruction(*found)


def detailed(code: bytes, address: int, bits: int = 64) -> Detailed | None:
    """The instruction that `code` begins with in code of so many bits, None for no instruction."""
    found = next(_engine(True, False, bits).disasm(code[:LONGEST_INSTRUCTION], address, 1), None)
    return cast("Detailed | None", found)
