"""DWARF location expressions of statics: an address, or bytes put together from pieces.

rustc splits a `static mut Option<T>` that LLVM took apart: each piece lies somewhere else or is
computed (`addr; deref_size 1; ...; stack_value; piece 8`). Source: DWARF 5 sections 2.5 and 2.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.symbols.dwarf import Dwarf, Unit, guarded
from breenix_gdbagent.symbols.dwarf_forms import U64, BadDwarf, sleb, uleb, unsigned

_MASK = (1 << 64) - 1
_MAX_PIECES = 1 << 16
_MAX_STACK = 256


@dataclass(frozen=True, slots=True)
class Place:
    """Where a static lives: at virtual address `address`, or as the bytes in `data`.

    `missing` are [start, end) of `data` that the compiler dropped.
    """

    address: int | None
    data: bytes = b""
    missing: tuple[tuple[int, int], ...] = ()


def linked_address(dwarf: Dwarf, unit: Unit, expression: bytes) -> int | None:
    """The link address when the expression is one plain address, else None. Reads no memory."""
    with guarded(dwarf.elf, ".debug_info"):
        if len(expression) == 9 and expression[0] == 0x03:
            return int(U64(expression, 1)[0])
        if len(expression) > 1 and expression[0] == 0xA1:
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
) -> Place:
    """Evaluate a static's location; `bias` is added to every link address in it.

    Raises `ReadError` when memory cannot be read, `InputError` for an expression that is damaged
    or uses what only frames have.
    """
    with guarded(dwarf.elf, ".debug_info"):
        return _Machine(dwarf, unit, expression, bias, read_virtual).run()


class _Machine:
    """The stack machine of DWARF 5 section 2.5, without registers and frames."""

    def __init__(
        self,
        dwarf: Dwarf,
        unit: Unit,
        code: bytes,
        bias: int,
        read: Callable[[int, int], bytes],
    ) -> None:
        self.dwarf, self.unit, self.code, self.bias, self.read = dwarf, unit, code, bias, read
        self.at = 0
        self.stack: list[int] = []
        self.is_value = False
        self.implicit: bytes | None = None
        self.data = b""
        self.missing: list[tuple[int, int]] = []

    def run(self) -> Place:
        pieces = 0
        while self.at < len(self.code):
            op = self.code[self.at]
            self.at += 1
            if op == 0x93:
                self.piece(self.operand())
                pieces += 1
            else:
                self.step(op)
            if len(self.stack) > _MAX_STACK:
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
        push = self.stack.append
        if op == 0x03:
            push((self.fixed(8) + self.bias) & _MASK)
        elif op == 0xA1:
            push((self.dwarf.address(self.unit, self.operand()) + self.bias) & _MASK)
        elif op == 0xA2:
            push(self.dwarf.address(self.unit, self.operand()))
        elif 0x30 <= op <= 0x4F:
            push(op - 0x30)
        elif op in _CONSTANTS:
            size, signed = _CONSTANTS[op]
            value = self.fixed(size)
            push((value - (1 << 8 * size) if signed and value >> (8 * size - 1) else value) & _MASK)
        elif op == 0x10:
            push(self.operand() & _MASK)
        elif op == 0x11:
            value, self.at = sleb(self.code, self.at)
            push(value & _MASK)
        elif op in (0x06, 0x94):
            size = 8 if op == 0x06 else self.fixed(1)
            if not 0 < size <= 8:
                raise BadDwarf(f"dereferences {size} bytes")
            push(int.from_bytes(self.read(self.stack.pop(), size), "little"))
        elif op == 0x23:
            push((self.stack.pop() + self.operand()) & _MASK)
        elif op == 0x9E:
            size = self.operand()
            self.implicit = self.code[self.at : self.at + size]
            self.at += size
        elif op == 0x9F:
            self.is_value = True
        else:
            self.arithmetic(op)

    def arithmetic(self, op: int) -> None:
        stack = self.stack
        if op == 0x12:
            stack.append(stack[-1])
        elif op == 0x13:
            stack.pop()
        elif op == 0x16:
            stack[-1], stack[-2] = stack[-2], stack[-1]
        elif op in _UNARY:
            stack.append(_UNARY[op](stack.pop()) & _MASK)
        elif op in _BINARY:
            right, left = stack.pop(), stack.pop()
            stack.append(_BINARY[op](left, right) & _MASK)
        elif op != 0x96:
            raise BadDwarf(f"has a static whose location uses operation {op:#x}, which is not read")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_CONSTANTS = {
    0x08: (1, False), 0x09: (1, True), 0x0A: (2, False), 0x0B: (2, True),
    0x0C: (4, False), 0x0D: (4, True), 0x0E: (8, False), 0x0F: (8, True),
}  # fmt: skip
_UNARY: dict[int, Callable[[int], int]] = {
    0x19: lambda a: abs(_signed(a)),
    0x1F: lambda a: -a,
    0x20: lambda a: ~a,
}
_BINARY: dict[int, Callable[[int, int], int]] = {
    0x1A: lambda a, b: a & b,
    0x1C: lambda a, b: a - b,
    0x1E: lambda a, b: a * b,
    0x21: lambda a, b: a | b,
    0x22: lambda a, b: a + b,
    0x24: lambda a, b: a << min(b, 64),
    0x25: lambda a, b: a >> min(b, 64),
    0x26: lambda a, b: _signed(a) >> min(b, 64),
    0x27: lambda a, b: a ^ b,
    0x29: lambda a, b: int(_signed(a) == _signed(b)),
    0x2A: lambda a, b: int(_signed(a) >= _signed(b)),
    0x2B: lambda a, b: int(_signed(a) > _signed(b)),
    0x2C: lambda a, b: int(_signed(a) <= _signed(b)),
    0x2D: lambda a, b: int(_signed(a) < _signed(b)),
    0x2E: lambda a, b: int(a != b),
}


def covered(place: Place, start: int, end: int) -> None:
    """Raise `ReadError` when the compiler dropped part of [start, end) of the value."""
    for low, high in place.missing:
        if start < high and low < end:
            raise ReadError(f"bytes {low} to {high} of the value were optimised out")
