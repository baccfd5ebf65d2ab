"""DWARF location expressions: an address, or bytes put together from pieces and registers.

rustc splits a `static mut Option<T>` that LLVM took apart: each piece lies somewhere else or is
computed (`addr; deref_size 1; ...; stack_value; piece 8`). Source: DWARF 5 sections 2.5 and 2.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf import Dwarf, Unit, guarded
from breenix_gdbagent.symbols.dwarf_forms import U64, BadDwarf, sleb, uleb, unsigned

_MASK = (1 << 64) - 1
_MAX_PIECES = 1 << 16
_MAX_STACK = 256
_MAX_STEPS = 1 << 16


class FrameState(Protocol):
    """What a variable's location may ask of its frame. Each raises `ReadError` where the frame does
    not have it."""

    def register(self, number: int) -> int:
        """A register by its DWARF number (System V ABI AMD64, figure 3.36)."""

    def base(self) -> int:
        """DW_AT_frame_base of the function."""

    def cfa(self) -> int:
        """The stack pointer before the call."""

    def at_entry(self, expression: bytes) -> int:
        """What an expression was when the function was entered."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a static or a variable lives: at virtual address `address`, or as the bytes in `data`.

    `missing` are [start, end) of `data` that the compiler dropped.
    """

    address: int | None
    data: bytes = b""
    missing: tuple[tuple[int, int], ...] = ()


def linked_address(dwarf: Dwarf, unit: Unit, expression: bytes) -> int | None:
    """The link address when the expression is one plain address, else None. Reads no memory."""
    with guarded(dwarf.elf, ".debug_info"):
        if len(expression) == 9 and expression[0] == dw.DW_OP_addr:
            return int(U64(expression, 1)[0])
        if len(expression) > 1 and expression[0] in _ADDRESS_INDEX:
            index, at = uleb(expression, 1)
            if at == len(expression):
                return dwarf.address(unit, index)
    return None


def evaluate(
    dwarf: Dwarf,
    unit: Unit,
    expression: bytes,
    bias: int,
    read_virtual: Callable[[int, int], bytes],
    frame: FrameState | None = None,
) -> Place:
    """Evaluate a location; `bias` is added to every link address in it, `frame` is the variable's,
    None of a static.

    Raises `ReadError` when memory or a register cannot be read, `InputError` for an expression
    that is damaged or uses what only frames have.
    """
    with guarded(dwarf.elf, ".debug_info"):
        return _Machine(dwarf, unit, expression, bias, read_virtual, frame).run()


class _Machine:
    """The stack machine of DWARF 5 section 2.5."""

    def __init__(
        self,
        dwarf: Dwarf,
        unit: Unit,
        code: bytes,
        bias: int,
        read: Callable[[int, int], bytes],
        frame: FrameState | None = None,
    ) -> None:
        self.dwarf, self.unit, self.code, self.bias, self.read = dwarf, unit, code, bias, read
        self.frame = frame
        self.at = 0
        self.stack: list[int] = []
        self.is_value = False
        self.implicit: bytes | None = None
        self.data = b""
        self.missing: list[tuple[int, int]] = []

    def run(self) -> Place:
        pieces = steps = 0
        while self.at < len(self.code):
            op = self.code[self.at]
            self.at += 1
            steps += 1
            if op == dw.DW_OP_piece:
                self.piece(self.operand())
                pieces += 1
            else:
                self.step(op)
            if len(self.stack) > _MAX_STACK or steps > _MAX_STEPS:
                raise BadDwarf("has a location expression that needs too much")
        if pieces:
            return Place(None, self.data, tuple(self.missing))
        if self.implicit is not None:
            return Place(None, self.implicit)
        value = self.stack[-1]
        return Place(None, value.to_bytes(8, "little")) if self.is_value else Place(value)

    def operand(self) -> int:
        value, self.at = uleb(self.code, self.at)
        return value

    def fixed(self, size: int) -> int:
        value = unsigned(self.code, self.at, size)
        self.at += size
        return value

    def piece(self, size: int) -> None:
        if size > _MAX_PIECES or len(self.data) > _MAX_PIECES:
            raise BadDwarf(f"has a location piece of {size} bytes")
        if self.implicit is not None:
            part = self.implicit[:size].ljust(size, b"\0")
        elif not self.stack:
            self.missing.append((len(self.data), len(self.data) + size))
            part = bytes(size)
        elif self.is_value:
            part = (self.stack.pop() & (1 << 8 * size) - 1).to_bytes(size, "little")
        else:
            part = self.read(self.stack.pop(), size)
        self.data += part
        self.stack.clear()
        self.is_value, self.implicit = False, None

    def step(self, op: int) -> None:
        """One operation; the operand forms are those of DWARF 5 section 7.7.1."""
        push, stack = self.stack.append, self.stack
        if op == dw.DW_OP_addr:
            push((self.fixed(8) + self.bias) & _MASK)
        elif op in _ADDRESS_INDEX:
            push((self.dwarf.address(self.unit, self.operand()) + self.bias) & _MASK)
        elif op in _CONSTANT_INDEX:
            push(self.dwarf.address(self.unit, self.operand()))
        elif dw.DW_OP_lit0 <= op <= dw.DW_OP_lit31:
            push(op - dw.DW_OP_lit0)
        elif op in _CONSTANTS:
            size, signed = _CONSTANTS[op]
            value = self.fixed(size)
            push((value - (1 << 8 * size) if signed and value >> (8 * size - 1) else value) & _MASK)
        elif op == dw.DW_OP_constu:
            push(self.operand() & _MASK)
        elif op == dw.DW_OP_consts:
            value, self.at = sleb(self.code, self.at)
            push(value & _MASK)
        elif op in (dw.DW_OP_deref, dw.DW_OP_deref_size):
            size = 8 if op == dw.DW_OP_deref else self.fixed(1)
            if not 0 < size <= 8:
                raise BadDwarf(f"dereferences {size} bytes")
            push(int.from_bytes(self.read(stack.pop(), size), "little"))
        elif op == dw.DW_OP_plus_uconst:
            push((stack.pop() + self.operand()) & _MASK)
        elif op == dw.DW_OP_implicit_value:
            size = self.operand()
            if size > len(self.code) - self.at:
                raise IndexError
            self.implicit = self.code[self.at : self.at + size]
            self.at += size
        elif op == dw.DW_OP_stack_value:
            self.is_value = True
        elif self.frame is not None and self.of_frame(op, self.frame):
            return
        elif op in (dw.DW_OP_skip, dw.DW_OP_bra):
            self.jump(op == dw.DW_OP_skip or stack.pop() != 0)
        elif op in _UNARY:
            push(_UNARY[op](stack.pop()) & _MASK)
        elif op in _BINARY:
            right, left = stack.pop(), stack.pop()
            push(_BINARY[op](left, right) & _MASK)
        else:
            self.reorder(op)

    def of_frame(self, op: int, frame: FrameState) -> bool:
        """The operations on registers and frames; whether it is one of them."""
        push = self.stack.append
        if dw.DW_OP_reg0 <= op <= dw.DW_OP_reg31 or op == dw.DW_OP_regx:
            number = self.operand() if op == dw.DW_OP_regx else op - dw.DW_OP_reg0
            push(frame.register(number))
            self.is_value = True
        elif dw.DW_OP_breg0 <= op <= dw.DW_OP_breg31 or op == dw.DW_OP_bregx:
            number = self.operand() if op == dw.DW_OP_bregx else op - dw.DW_OP_breg0
            push((frame.register(number) + self.signed_operand()) & _MASK)
        elif op == dw.DW_OP_fbreg:
            push((frame.base() + self.signed_operand()) & _MASK)
        elif op == dw.DW_OP_call_frame_cfa:
            push(frame.cfa())
        elif op in (dw.DW_OP_entry_value, dw.DW_OP_GNU_entry_value):
            size = self.operand()
            self.at += size
            push(frame.at_entry(self.code[self.at - size : self.at]))
        elif op == dw.DW_OP_convert:
            self.convert(self.operand())
        elif op in (dw.DW_OP_implicit_pointer, dw.DW_OP_GNU_implicit_pointer):
            raise ReadError("a pointer to what was optimised out")
        else:
            return False
        return True

    def signed_operand(self) -> int:
        value, self.at = sleb(self.code, self.at)
        return value

    def convert(self, to: int) -> None:
        """To the base type whose entry is `to` bytes into the unit; 0 is an address's."""
        if not to:
            return
        base = self.dwarf.die(self.unit.offset + to, self.unit)
        bits = 8 * (base.number(dw.DW_AT_byte_size) or 8)
        signed = base.number(dw.DW_AT_encoding) in (dw.DW_ATE_signed, dw.DW_ATE_signed_char)
        value = self.stack.pop() & (1 << bits) - 1
        self.stack.append((value - (1 << bits) if signed and value >> bits - 1 else value) & _MASK)

    def jump(self, taken: bool) -> None:
        """To the operation as many bytes, signed, behind the operand; its end ends the program."""
        offset = self.fixed(2)
        to = self.at + (offset - (1 << 16) if offset >> 15 else offset)
        if not 0 <= to <= len(self.code):
            raise BadDwarf("has a location expression that jumps out of itself")
        if taken:
            self.at = to

    def reorder(self, op: int) -> None:
        """The operations that copy, drop and swap entries of the stack."""
        stack = self.stack
        if op == dw.DW_OP_dup:
            stack.append(stack[-1])
        elif op == dw.DW_OP_drop:
            stack.pop()
        elif op == dw.DW_OP_over:
            stack.append(stack[-2])
        elif op == dw.DW_OP_pick:
            stack.append(stack[-1 - self.fixed(1)])
        elif op == dw.DW_OP_swap:
            stack[-1], stack[-2] = stack[-2], stack[-1]
        elif op == dw.DW_OP_rot:
            stack[-1], stack[-2], stack[-3] = stack[-2], stack[-3], stack[-1]
        elif op != dw.DW_OP_nop:
            name = dw.name_of("DW_OP", op)
            raise BadDwarf(f"has a location that uses {name}, which is not read")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _divided(left: int, right: int) -> int:
    """Signed, towards zero (DWARF 5, 2.5.1.4)."""
    if not right:
        raise BadDwarf("divides by zero")
    a, b = _signed(left), _signed(right)
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _remainder(left: int, right: int) -> int:
    """Unsigned, as gdb and LLVM have it; the standard says no more than "modulo"."""
    if not right:
        raise BadDwarf("divides by zero")
    return left % right


_ADDRESS_INDEX = (dw.DW_OP_addrx, dw.DW_OP_GNU_addr_index)
_CONSTANT_INDEX = (dw.DW_OP_constx, dw.DW_OP_GNU_const_index)
_CONSTANTS = {
    dw.DW_OP_const1u: (1, False),
    dw.DW_OP_const1s: (1, True),
    dw.DW_OP_const2u: (2, False),
    dw.DW_OP_const2s: (2, True),
    dw.DW_OP_const4u: (4, False),
    dw.DW_OP_const4s: (4, True),
    dw.DW_OP_const8u: (8, False),
    dw.DW_OP_const8s: (8, True),
}
_UNARY: dict[int, Callable[[int], int]] = {
    dw.DW_OP_abs: lambda a: abs(_signed(a)),
    dw.DW_OP_neg: lambda a: -a,
    dw.DW_OP_not: lambda a: ~a,
}
_BINARY: dict[int, Callable[[int, int], int]] = {
    dw.DW_OP_and: lambda a, b: a & b,
    dw.DW_OP_div: _divided,
    dw.DW_OP_minus: lambda a, b: a - b,
    dw.DW_OP_mod: _remainder,
    dw.DW_OP_mul: lambda a, b: a * b,
    dw.DW_OP_or: lambda a, b: a | b,
    dw.DW_OP_plus: lambda a, b: a + b,
    dw.DW_OP_shl: lambda a, b: a << min(b, 64),
    dw.DW_OP_shr: lambda a, b: a >> min(b, 64),
    dw.DW_OP_shra: lambda a, b: _signed(a) >> min(b, 64),
    dw.DW_OP_xor: lambda a, b: a ^ b,
    dw.DW_OP_eq: lambda a, b: int(_signed(a) == _signed(b)),
    dw.DW_OP_ge: lambda a, b: int(_signed(a) >= _signed(b)),
    dw.DW_OP_gt: lambda a, b: int(_signed(a) > _signed(b)),
    dw.DW_OP_le: lambda a, b: int(_signed(a) <= _signed(b)),
    dw.DW_OP_lt: lambda a, b: int(_signed(a) < _signed(b)),
    dw.DW_OP_ne: lambda a, b: int(a != b),
}


def covered(place: Place, start: int, end: int) -> None:
    """Raise `ReadError` when the compiler dropped part of [start, end) of the value."""
    for low, high in place.missing:
        if start < high and low < end:
            raise ReadError(f"bytes {low} to {high} of the value were optimised out")
