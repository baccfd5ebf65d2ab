"""DWARF programs made by chance: each valid, of every opcode, and no two alike.

What they mean is for others to say (readelf, pyelftools, gdb, drgn): nothing here interprets.
"""

from __future__ import annotations

import random
import struct

from breenix_gdbagent.symbols import dwarf_names as dw
from tests.writers.dwarf import sleb, uleb

SPAN = 0x1000
"""Bytes of code that one frame description covers."""
EH_FRAME = 0x10_0000
"""Link address of the .eh_frame that `frame_sections` makes."""


class _Frames:
    """One program of call-frame instructions."""

    def __init__(self, dice: random.Random, code_align: int, room: int, every: bool) -> None:
        self.dice, self.code_align, self.room, self.every = dice, code_align, room, every
        self.kept: list[bool] = []
        self.by_expression = False

    def text(self, length: int) -> bytes:
        return b"".join(self.instruction() for _ in range(length))

    def register(self) -> bytes:
        return uleb(self.dice.randrange(16))

    def number(self) -> int:
        return self.dice.choice((self.dice.randrange(64), self.dice.randrange(1 << 14)))

    def signed(self) -> int:
        return self.dice.choice((-1, 1)) * self.number()

    def expression(self) -> bytes:
        return b"\x02\x77" + bytes([self.dice.randrange(64)])

    def advance(self) -> bytes:
        most = min(self.room // self.code_align, 200)
        step = self.dice.randrange(most + 1)
        self.room -= step * self.code_align
        forms = [
            (dw.DW_CFA_advance_loc1, 1), (dw.DW_CFA_advance_loc2, 2), (dw.DW_CFA_advance_loc4, 4),
        ]  # fmt: skip
        if step < 64 and self.dice.random() < 0.5:
            return bytes([dw.DW_CFA_advance_loc | step])
        op, size = self.dice.choice(forms)
        return bytes([op]) + step.to_bytes(size, "little")

    def cfa(self) -> bytes:
        kinds = [dw.DW_CFA_def_cfa, dw.DW_CFA_def_cfa_expression]
        kinds += [dw.DW_CFA_def_cfa_sf] * self.every
        if not self.by_expression:  # these change one half of a rule that has to be there
            kinds += [
                dw.DW_CFA_def_cfa_register, dw.DW_CFA_def_cfa_offset, dw.DW_CFA_def_cfa_offset_sf,
            ]  # fmt: skip
        op = self.dice.choice(kinds)
        self.by_expression = op == dw.DW_CFA_def_cfa_expression
        operands = {
            dw.DW_CFA_def_cfa: lambda: self.register() + uleb(self.number()),
            dw.DW_CFA_def_cfa_sf: lambda: self.register() + sleb(self.signed()),
            dw.DW_CFA_def_cfa_expression: self.expression,
            dw.DW_CFA_def_cfa_register: self.register,
            dw.DW_CFA_def_cfa_offset: lambda: uleb(self.number()),
            dw.DW_CFA_def_cfa_offset_sf: lambda: sleb(self.signed()),
        }
        return bytes([op]) + operands[op]()

    def initial(self) -> bytes:
        """A rule of a CIE, which has nothing to restore."""
        while True:
            made = self.rule()
            if made[0] & 0xC0 != dw.DW_CFA_restore and made[0] != dw.DW_CFA_restore_extended:
                return made

    def rule(self) -> bytes:
        low = self.dice.randrange(16)
        return self.dice.choice(
            (
                lambda: bytes([dw.DW_CFA_offset | low]) + uleb(self.number()),
                lambda: bytes([dw.DW_CFA_restore | low]),
                lambda: b"\x05" + self.register() + uleb(self.number()),
                lambda: b"\x06" + self.register(),
                lambda: b"\x07" + self.register(),
                lambda: b"\x08" + self.register(),
                lambda: b"\x09" + self.register() + self.register(),
                lambda: b"\x10" + self.register() + self.expression(),
                lambda: b"\x11" + self.register() + sleb(self.signed()),
                lambda: b"\x14" + self.register() + uleb(self.number()),
                lambda: b"\x15" + self.register() + sleb(self.signed()),
                lambda: b"\x16" + self.register() + self.expression(),
                lambda: b"\x2e" + uleb(self.number()) if self.every else b"\0",
            )
        )()

    def instruction(self) -> bytes:
        kind = self.dice.random()
        if kind < 0.35:
            return self.advance()
        if kind < 0.55:
            return self.cfa()
        if kind < 0.9:
            return self.rule()
        if kind < 0.95 and len(self.kept) < 4:
            self.kept.append(self.by_expression)
            return bytes([dw.DW_CFA_remember_state])
        if self.kept:
            self.by_expression = self.kept.pop()
            return bytes([dw.DW_CFA_restore_state])
        return bytes([dw.DW_CFA_nop])


def _sized(body: bytes) -> bytes:
    body += bytes(-len(body) % 8)
    return struct.pack("<I", len(body)) + body


def frame_sections(dice: random.Random, count: int, every: bool) -> tuple[bytes, bytes]:
    """.debug_frame and .eh_frame with `count` descriptions each, of code from 0x1000 on. Without
    `every` there is nothing of what pyelftools 0.33 refuses (DW_CFA_GNU_args_size) or does
    not scale (DW_CFA_def_cfa_sf)."""
    plain, eh = b"", b""
    for number in range(count):
        if number % 8 == 0:
            code_align = dice.choice((1, 1, 2, 4))
            factors = uleb(code_align) + sleb(dice.choice((-8, -4, 4, 1))) + b"\x10"
            first = _Frames(dice, code_align, 0, every)
            start = b"\x0c\x07\x08\x90\x01" + b"".join(first.initial() for _ in range(3))
            version = dice.choice((1, 3, 4))
            head = bytes([version]) + b"\0" + (b"\x08\0" if version == 4 else b"")
            plain_cie, eh_cie = len(plain), len(eh)
            plain += _sized(b"\xff\xff\xff\xff" + head + factors + start)
            eh += _sized(bytes(4) + b"\x01zR\0" + factors + b"\x01\x1b" + start)
        low = SPAN * (number + 1)
        text = _Frames(dice, code_align, SPAN - 1, every).text(dice.randrange(1, 30))
        where = struct.pack("<QQ", low, SPAN)
        plain += _sized(struct.pack("<I", plain_cie) + where + text)
        at = EH_FRAME + len(eh) + 8
        text = _Frames(dice, code_align, SPAN - 1, every).text(dice.randrange(1, 30))
        low += SPAN * count
        where = struct.pack("<iI", low - at, SPAN) + b"\0"
        eh += _sized(struct.pack("<I", len(eh) + 4 - eh_cie) + where + text)
    return plain, eh + bytes(4)


FILES = ("one.rs", "two.rs", "three.rs")


def line_program(dice: random.Random, version: int) -> bytes:
    """A program of several sequences with the files `FILES` of the directory /src."""
    minimum = dice.choice((1, 1, 2, 4))
    base, span = dice.choice((-5, -3, 0, 1)), dice.choice((1, 12, 14))
    opcode_base = dice.choice((10, 13, 15))
    lengths = [0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 2, 1][: opcode_base - 1]
    parts = []
    at = 0x1000
    for _ in range(dice.randrange(1, 4)):
        at += dice.randrange(0x100)
        parts.append(_sequence(dice, at, opcode_base, base))
        at += 0x100000
    params = bytes([minimum, *([1] if version >= 4 else []), dice.randrange(2), base & 0xFF, span])
    head = params + bytes([opcode_base, *lengths]) + _files(version)
    body = struct.pack("<H", version) + (b"\x08\0" if version == 5 else b"")
    body += struct.pack("<I", len(head)) + head + b"".join(parts)
    return struct.pack("<I", len(body)) + body


def _files(version: int) -> bytes:
    if version < 5:
        names = b"".join(name.encode() + b"\0\1\0\0" for name in FILES)
        return b"/src\0\0" + names + b"\0"
    folders = b"\x01\x01\x08\x02/comp\0/src\0"
    names = b"".join(name.encode() + b"\0\1" for name in (FILES[0], *FILES))
    return folders + b"\x02\x01\x08\x02\x0b" + bytes([len(FILES) + 1]) + names


def _sequence(dice: random.Random, at: int, opcode_base: int, base: int) -> bytes:
    """One sequence that starts at `at`; lines stay above 0 and addresses go up."""
    out = b"\0\x09\x02" + struct.pack("<Q", at) + b"\x03" + sleb(20_000) + b"\x01"
    for _ in range(dice.randrange(1, 60)):
        kinds = [
            lambda: bytes([dice.randrange(opcode_base, 256)]),
            lambda: bytes([dice.randrange(opcode_base, 256)]),
            lambda: b"\x01",
            lambda: b"\x02" + uleb(dice.choice((dice.randrange(64), dice.randrange(600)))),
            lambda: b"\x03" + sleb(dice.randrange(-150, 150)),
            lambda: b"\x04" + uleb(dice.randrange(1, len(FILES) + 1)),
            lambda: b"\x05" + uleb(dice.randrange(300)),
            lambda: b"\x06",
            lambda: b"\x07",
            lambda: b"\x08",
            lambda: b"\x09" + struct.pack("<H", dice.randrange(1000)),
            lambda: b"\0\x02\x04" + uleb(dice.randrange(100)),
        ]
        if opcode_base > 10:
            kinds += [lambda: b"\x0a", lambda: b"\x0b", lambda: b"\x0c" + uleb(dice.randrange(200))]
        out += dice.choice(kinds)()
    return out + b"\x02\x10\0\x01\x01"


MEMORY = bytes(dice_byte * 37 + 11 & 0xFF for dice_byte in range(256))
"""What lies at `MEMORY_AT` while a location is evaluated."""
MEMORY_AT = 0x2000


def location(dice: random.Random, jumps: bool) -> bytes:
    """An expression whose value is of 64 bits: constants, arithmetic, order, reads; and `jumps`."""
    out, depth = b"", 0
    for _ in range(dice.randrange(2, 25)):
        part, change = _operation(dice, depth, jumps)
        out, depth = out + part, depth + change
    while depth > 1:
        out, depth = out + bytes([dice.choice(_FOLDS)]), depth - 1
    return out + (_constant(dice) if not depth else b"") + bytes([dw.DW_OP_stack_value])


_BINARY = (
    dw.DW_OP_and, dw.DW_OP_minus, dw.DW_OP_mul, dw.DW_OP_or, dw.DW_OP_plus, dw.DW_OP_xor,
    dw.DW_OP_eq, dw.DW_OP_ge, dw.DW_OP_gt, dw.DW_OP_le, dw.DW_OP_lt, dw.DW_OP_ne,
)  # fmt: skip
_FOLDS = (dw.DW_OP_minus, dw.DW_OP_plus, dw.DW_OP_xor)
_SHIFTS = (dw.DW_OP_shl, dw.DW_OP_shr, dw.DW_OP_shra)
_UNARY = (dw.DW_OP_neg, dw.DW_OP_not, dw.DW_OP_abs)


def _constant(dice: random.Random) -> bytes:
    size = dice.choice((1, 2, 4, 8))
    raw = dice.choice((dice.randbytes(size), b"\xff" * size, bytes(size)))
    kind = dice.randrange(4)
    if kind == 0:
        return bytes([dw.DW_OP_lit0 + dice.randrange(32)])
    if kind == 1:
        first = {1: dw.DW_OP_const1u, 2: dw.DW_OP_const2u, 4: dw.DW_OP_const4u,
                 8: dw.DW_OP_const8u}[size]  # fmt: skip
        return bytes([first + dice.randrange(2)]) + raw
    value = int.from_bytes(raw, "little")
    if kind == 2:
        return bytes([dw.DW_OP_constu]) + uleb(value)
    return bytes([dw.DW_OP_consts]) + sleb(value >> 1 if dice.random() < 0.5 else -(value >> 1))


def _operation(dice: random.Random, depth: int, jumps: bool) -> tuple[bytes, int]:
    """One operation, and by how much the stack grows."""
    if depth < 1 or dice.random() < 0.3:
        if dice.random() < 0.2:
            at = MEMORY_AT + dice.randrange(200)
            size = dice.choice((1, 2, 4, 8))
            reads = b"\x06" if size == 8 else bytes([dw.DW_OP_deref_size, size])
            return b"\x03" + struct.pack("<Q", at) + reads, 1
        return _constant(dice), 1
    kind = dice.randrange(9)
    if kind == 0:
        return bytes([dice.choice(_UNARY)]), 0
    if kind == 1:
        return bytes([dw.DW_OP_lit0 + dice.randrange(32), dice.choice(_SHIFTS)]), 0
    if kind == 2:
        return bytes([dw.DW_OP_plus_uconst]) + uleb(dice.randrange(1 << 20)), 0
    if kind == 3:
        return bytes([dw.DW_OP_dup]), 1
    if kind == 4:
        divisor = bytes([dw.DW_OP_lit0 + dice.randrange(1, 32)])
        return divisor + bytes([dw.DW_OP_div]), 0
    if kind == 5 and jumps:  # over one byte, or not
        return bytes([dw.DW_OP_dup, dw.DW_OP_bra]) + b"\x01\0" + bytes([dw.DW_OP_not]), 0
    if kind == 6 and jumps:
        return bytes([dw.DW_OP_skip]) + b"\x02\0" + bytes([dw.DW_OP_drop, dw.DW_OP_nop]), 0
    if depth < 3:
        return bytes([dw.DW_OP_nop]), 0
    return dice.choice((
        (bytes([dw.DW_OP_swap]), 0), (bytes([dw.DW_OP_rot]), 0), (bytes([dw.DW_OP_over]), 1),
        (bytes([dw.DW_OP_pick, dice.randrange(depth)]), 1), (bytes([dice.choice(_BINARY)]), -1),
        (bytes([dw.DW_OP_drop]), -1),
    ))  # fmt: skip
