"""Call-frame information: where a function's caller is, from .debug_frame and .eh_frame.

Source: DWARF 5 section 6.4; System V ABI AMD64, section 3.7 and figure 3.36 (register numbers);
LSB Core, chapter "Exception Frames" (.eh_frame's differences).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols.dwarf import guarded
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, sleb, uleb, unsigned
from breenix_gdbagent.symbols.elf import ElfFile

REGISTERS = (
    "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip",
)  # fmt: skip
_RIP = 16
_MASK = (1 << 64) - 1
# .eh_frame pointer encodings (LSB): the low nibble is the format, bits 4-6 what it is relative to.
_PE_OMIT, _PE_PCREL = 0xFF, 0x10
_MAX_STATES = 64


@dataclass(frozen=True, slots=True)
class Rules:
    """How to find the caller at one address.

    The CFA (the stack pointer before the call) is register `cfa_register` + `cfa_offset`. `saved`
    gives, by register name, where the caller's value is: an offset from the CFA. `unknown` are
    registers that the function does not keep.
    """

    cfa_register: str
    cfa_offset: int
    saved: dict[str, int]
    unknown: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Cie:
    code_align: int
    data_align: int
    return_register: int
    encoding: int
    augmented: bool
    interrupted: bool
    program: bytes


@dataclass(frozen=True, slots=True)
class _Fde:
    low: int
    high: int
    cie: _Cie
    program: bytes


@dataclass(slots=True)
class _State:
    """The row being built; rules are ("offset", n), ("same",), ("undefined",) or ("other",)."""

    cfa: tuple[int, int] | None = None
    rules: dict[int, tuple[str, int]] = field(default_factory=dict)


class FrameTable:
    """All frame descriptions of one ELF, by link address.

    Raises `InputError` naming .debug_frame or .eh_frame where it is damaged.
    """

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf

    @cached_property
    def _sorted(self) -> tuple[list[int], list[_Fde]]:
        found: list[_Fde] = []
        for name in (".debug_frame", ".eh_frame"):
            section = self.elf.section(name)
            if section is not None and section.size:
                with guarded(self.elf, name):
                    data = self.elf.data(name)
                    found += _Section(data, section.address, name == ".eh_frame").entries()
        found.sort(key=lambda fde: fde.low)
        return [fde.low for fde in found], found

    def __len__(self) -> int:
        return len(self._sorted[1])

    def covers(self, link: int) -> bool:
        """Whether some description covers a link address."""
        return self._at(link) is not None

    def is_signal_frame(self, link: int) -> bool:
        """Whether a link address is code whose frame was interrupted and not called (augmentation
        S, ``.cfi_signal_frame``): entries from interrupts and system calls."""
        fde = self._at(link)
        return fde is not None and fde.cie.interrupted

    def _at(self, link: int) -> _Fde | None:
        lows, found = self._sorted
        at = bisect_right(lows, link) - 1
        if at >= 0 and link < found[at].high:
            return found[at]
        return None

    def rules(self, link: int) -> Rules | None:
        """The rules that hold at a link address; None where nothing describes it.

        Also None for rules that are expressions: the compiler writes none for a kernel.
        """
        fde = self._at(link)
        if fde is None:
            return None
        try:
            state = _run(fde, link)
        except (IndexError, BadDwarf, struct.error) as error:
            raise InputError(
                f"section .debug_frame or .eh_frame of {self.elf.path} is corrupt at "
                f"{fde.low:#x} ({error or 'cut off'})"
            ) from None
        return None if state is None else _rules(fde, state)


class _Section:
    """The entries of one section."""

    def __init__(self, data: bytes, address: int, is_eh: bool) -> None:
        self.data, self.address, self.is_eh = data, address, is_eh
        self.cies: dict[int, _Cie] = {}

    def entries(self) -> Iterator[_Fde]:
        data = self.data
        at = 0
        while at + 4 <= len(data):
            length, size = f.U32(data, at)[0], 4
            if length == 0:
                if self.is_eh:
                    return
                at += 4
                continue
            at += 4
            if length == 0xFFFFFFFF:
                length, size = f.U64(data, at)[0], 8
                at += 8
            end = at + length
            if end > len(data):
                raise BadDwarf(f"is truncated: an entry ends at {end:#x}")
            # .eh_frame counts the CIE's distance back from this field, always in 4 bytes.
            size = 4 if self.is_eh else size
            pointer = unsigned(data, at, size)
            is_cie = pointer == 0 if self.is_eh else pointer == (1 << 8 * size) - 1
            if not is_cie:
                cie = self.cie(at - pointer if self.is_eh else pointer)
                fde = self.fde(cie, at + size, end)
                if fde.low and fde.low < fde.high:
                    yield fde
            at = end

    def cie(self, offset: int) -> _Cie:
        if offset not in self.cies:
            self.cies[offset] = self.read_cie(offset)
        return self.cies[offset]

    def read_cie(self, offset: int) -> _Cie:
        data = self.data
        if not 0 <= offset < len(data):
            raise BadDwarf(f"refers to a CIE at {offset:#x}, outside of it")
        length, at, size = f.U32(data, offset)[0], offset + 4, 4
        if length == 0xFFFFFFFF:
            length, at, size = f.U64(data, at)[0], at + 8, 8
        end = at + length
        at += 4 if self.is_eh else size
        version = data[at]
        text_end = f.string_end(data, at + 1)
        augmentation = data[at + 1 : text_end].decode("latin-1")
        at = text_end + 1
        if version >= 4 and not self.is_eh:
            at += 2
        code_align, at = uleb(data, at)
        data_align, at = sleb(data, at)
        column, at = (data[at], at + 1) if version == 1 else uleb(data, at)
        encoding = 0
        if augmentation.startswith("z"):
            length, at = uleb(data, at)
            encoding = _fde_encoding(augmentation[1:], data, at)
            at += length
        elif augmentation:
            raise BadDwarf(f"has a CIE with augmentation {augmentation!r}")
        program = data[at:end]
        augmented = augmentation.startswith("z")
        return _Cie(
            code_align, data_align, column, encoding, augmented, "S" in augmentation, program
        )

    def fde(self, cie: _Cie, at: int, end: int) -> _Fde:
        low, at = self.address_at(cie.encoding, at)
        span, at = self.address_at(cie.encoding & 0x0F, at)
        if cie.augmented:
            length, at = uleb(self.data, at)
            at += length
        return _Fde(low, low + span, cie, self.data[at:end])

    def address_at(self, encoding: int, at: int) -> tuple[int, int]:
        """An encoded pointer and the offset behind it."""
        kind = encoding & 0x0F
        base = (self.address + at) if encoding & 0x70 == _PE_PCREL else 0
        if encoding & 0x70 not in (0, _PE_PCREL) or encoding & 0x80:
            raise BadDwarf(f"has a pointer encoding {encoding:#x}")
        if kind in (0x01, 0x09):
            value, at = uleb(self.data, at) if kind == 1 else sleb(self.data, at)
            return (base + value) & _MASK, at
        if kind not in _POINTERS:
            raise BadDwarf(f"has a pointer encoding {encoding:#x}")
        size, signed = _POINTERS[kind]
        value = unsigned(self.data, at, size)
        if signed and value >> (8 * size - 1):
            value -= 1 << 8 * size
        return (base + value) & _MASK, at + size


_POINTERS = {
    0x00: (8, False), 0x02: (2, False), 0x03: (4, False), 0x04: (8, False),
    0x0A: (2, True), 0x0B: (4, True), 0x0C: (8, True),
}  # fmt: skip


def _fde_encoding(augmentation: str, data: bytes, at: int) -> int:
    encoding = 0
    for letter in augmentation:
        if letter == "R":
            encoding = data[at]
            at += 1
        elif letter == "L":
            at += 1
        elif letter == "P":
            kind = data[at] & 0x0F
            if data[at] == _PE_OMIT:
                at += 1
            else:
                at += 1 + _POINTERS.get(kind, (8, False))[0]
        elif letter not in "SB":
            raise BadDwarf(f"has a CIE with augmentation {letter!r}")
    return encoding


def _run(fde: _Fde, link: int) -> _State | None:
    """The row at `link`: the CIE's program, then the FDE's up to that address."""
    initial = _Machine(fde.cie, None)
    state = initial.run(fde.cie.program, 0, None)
    if state is None:
        return None
    base = _State(state.cfa, dict(state.rules))
    return _Machine(fde.cie, base).run(fde.program, fde.low, link)


class _Machine:
    """The call-frame instructions (DWARF 5 section 6.4.2). A row that needs an expression is None.

    The operand loop is one long dispatch by nature; each branch is one instruction.
    """

    def __init__(self, cie: _Cie, initial: _State | None) -> None:
        self.cie = cie
        self.initial = initial
        self.state = _State() if initial is None else _State(initial.cfa, dict(initial.rules))
        self.kept: list[_State] = []

    def run(self, code: bytes, where: int, link: int | None) -> _State | None:
        at = 0
        cie, data_align = self.cie, self.cie.data_align
        while at < len(code):
            op = code[at]
            at += 1
            high, low = op & 0xC0, op & 0x3F
            if high == 0x40:
                where += low * cie.code_align
            elif high == 0x80:
                offset, at = uleb(code, at)
                self.state.rules[low] = ("offset", offset * data_align)
                continue
            elif high == 0xC0:
                self.restore(low)
                continue
            elif op in _ADVANCES:
                size = _ADVANCES[op]
                where += unsigned(code, at, size) * cie.code_align
                at += size
            elif op == 0x01:
                where, at = f.U64(code, at)[0], at + 8
            else:
                at = self.other(op, code, at)
                if at < 0:
                    return None
                continue
            if link is not None and where > link:
                break
        return self.state

    def restore(self, register: int) -> None:
        known = self.initial.rules.get(register) if self.initial else None
        if known is None:
            self.state.rules.pop(register, None)
        else:
            self.state.rules[register] = known

    def other(self, op: int, code: bytes, at: int) -> int:
        """One instruction that does not move the location; -1 for what is not read."""
        state, align = self.state, self.cie.data_align
        if op in (0x00, 0x2D):
            return at
        if op == 0x0A:
            if len(self.kept) >= _MAX_STATES:
                raise BadDwarf("remembers too many states")
            self.kept.append(_State(state.cfa, dict(state.rules)))
            return at
        if op == 0x0B:
            self.state = self.kept.pop()
            return at
        first, at = uleb(code, at)
        if op in (0x06, 0x07, 0x08):
            if op == 0x06:
                self.restore(first)
            else:
                state.rules[first] = ("undefined" if op == 0x07 else "same", 0)
        elif op == 0x0D:
            state.cfa = (first, state.cfa[1] if state.cfa else 0)
        elif op == 0x0E:
            state.cfa = (state.cfa[0] if state.cfa else 7, first)
        elif op == 0x2E:
            pass
        elif op in (0x05, 0x0C, 0x09, 0x2F):
            second, at = uleb(code, at)
            if op == 0x0C:
                state.cfa = (first, second)
            elif op == 0x05:
                state.rules[first] = ("offset", second * align)
            elif op == 0x2F:
                state.rules[first] = ("offset", -second * align)
            else:
                state.rules[first] = ("other", 0)
        elif op in (0x11, 0x12, 0x13):
            return self.signed(op, first, code, at)
        else:
            return -1
        return at

    def signed(self, op: int, first: int, code: bytes, at: int) -> int:
        state, align = self.state, self.cie.data_align
        if op == 0x13:
            # The operand is signed: read it again as such.
            value = first - (1 << 7) if first < 0x80 and first & 0x40 else first
            state.cfa = (state.cfa[0] if state.cfa else 7, value * align)
            return at
        second, at = sleb(code, at)
        if op == 0x12:
            state.cfa = (first, second * align)
        else:
            state.rules[first] = ("offset", second * align)
        return at


_ADVANCES = {0x02: 1, 0x03: 2, 0x04: 4}


def _rules(fde: _Fde, state: _State) -> Rules | None:
    if state.cfa is None or state.cfa[0] >= len(REGISTERS):
        return None
    saved: dict[str, int] = {}
    unknown = set()
    for register, (kind, offset) in state.rules.items():
        name = _name(fde, register)
        if name is None or kind == "same":
            continue
        if kind == "offset":
            saved[name] = offset
        else:
            unknown.add(name)
    return Rules(REGISTERS[state.cfa[0]], state.cfa[1], saved, frozenset(unknown))


def _name(fde: _Fde, register: int) -> str | None:
    if register == fde.cie.return_register:
        return REGISTERS[_RIP]
    return REGISTERS[register] if register < _RIP else None
