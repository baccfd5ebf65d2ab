"""Call-frame information: where a function's caller is, from .debug_frame and .eh_frame.

Source: DWARF 5 section 6.4; System V ABI AMD64, section 3.7 and figure 3.36 (register numbers);
LSB Core, chapter "Exception Frames" (.eh_frame's differences).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf import guarded
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, sleb, uleb, unsigned
from breenix_gdbagent.symbols.elf import ElfFile

REGISTERS = (
    "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip",
)  # fmt: skip
_RSP = 7
_MASK = (1 << 64) - 1
_MAX_STATES = 64


@dataclass(frozen=True, slots=True)
class Rules:
    """How to find the caller at one address.

    The CFA (the stack pointer before the call) is register `cfa_register` + `cfa_offset`. `saved`
    gives, by register name, where the caller's value is: an offset from the CFA; `values` the
    caller's value itself as such an offset. `unknown` are registers that the function does not
    keep, or that are kept in a way that is not read.
    """

    cfa_register: str
    cfa_offset: int
    saved: dict[str, int]
    unknown: frozenset[str]
    values: dict[str, int] = field(default_factory=dict)


class _Program(NamedTuple):
    """Call-frame instructions, and the link address at which they stand (of .eh_frame)."""

    code: bytes
    address: int


@dataclass(frozen=True, slots=True)
class _Cie:
    """What several functions have in common (DWARF 5, 6.4.1). `interrupted`: the frame of a signal
    or an interrupt, whose PC is no return address."""

    code_align: int
    data_align: int
    return_register: int
    encoding: int
    augmented: bool
    interrupted: bool
    program: _Program


@dataclass(frozen=True, slots=True)
class _Fde:
    """How to find the caller within [`low`, `high`), link addresses (DWARF 5, 6.4.1)."""

    low: int
    high: int
    cie: _Cie
    program: _Program


@dataclass(slots=True)
class _State:
    """The row being built. A rule is a kind and its operand: ``offset`` and ``val_offset`` with
    one from the CFA, ``same``, ``undefined``, or ``other`` for what is not read. `cfa` None: by an
    expression, or nothing has been said of it."""

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

        Also None where the CFA or the place of the return address is an expression, or a register:
        compilers write none such for a kernel.
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
        return None if state is None else _rules(fde, state, self.elf.arch.names.unwind)


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
        encoding = dw.DW_EH_PE_absptr
        if augmentation.startswith("z"):
            length, at = uleb(data, at)
            encoding = _fde_encoding(augmentation[1:], data, at)
            at += length
        elif augmentation:
            raise BadDwarf(f"has a CIE with augmentation {augmentation!r}")
        program = _Program(data[at:end], self.address + at)
        augmented = augmentation.startswith("z")
        return _Cie(
            code_align, data_align, column, encoding, augmented, "S" in augmentation, program
        )

    def fde(self, cie: _Cie, at: int, end: int) -> _Fde:
        low, at = read_pointer(self.data, at, cie.encoding, self.address)
        span, at = _number(self.data, at, cie.encoding & 0x0F)
        if cie.augmented:
            length, at = uleb(self.data, at)
            at += length
        return _Fde(low, low + span, cie, _Program(self.data[at:end], self.address + at))


_POINTERS = {
    dw.DW_EH_PE_absptr: (8, False),
    dw.DW_EH_PE_udata2: (2, False),
    dw.DW_EH_PE_udata4: (4, False),
    dw.DW_EH_PE_udata8: (8, False),
    dw.DW_EH_PE_sdata2: (2, True),
    dw.DW_EH_PE_sdata4: (4, True),
    dw.DW_EH_PE_sdata8: (8, True),
}


def read_pointer(data: bytes, at: int, encoding: int, address: int) -> tuple[int, int]:
    """An encoded pointer at `at` of `data`, which stands at link `address`, and the offset behind
    it (LSB Core, table "DWARF Exception Header Encoding")."""
    relative = encoding & 0x70
    if relative not in (0, dw.DW_EH_PE_pcrel) or encoding & dw.DW_EH_PE_indirect:
        raise BadDwarf(f"has a pointer encoding {encoding:#x}")
    base = address + at if relative else 0
    value, at = _number(data, at, encoding & 0x0F)
    return (base + value) & _MASK, at


def _number(data: bytes, at: int, kind: int) -> tuple[int, int]:
    if kind == dw.DW_EH_PE_uleb128:
        return uleb(data, at)
    if kind == dw.DW_EH_PE_sleb128:
        return sleb(data, at)
    if kind not in _POINTERS:
        raise BadDwarf(f"has a pointer encoding {kind:#x}")
    size, signed = _POINTERS[kind]
    value = unsigned(data, at, size)
    return value - (1 << 8 * size) if signed and value >> 8 * size - 1 else value, at + size


def _fde_encoding(augmentation: str, data: bytes, at: int) -> int:
    """How a CIE's FDEs encode their addresses: the operand of R, behind those of other letters."""
    encoding = dw.DW_EH_PE_absptr
    for letter in augmentation:
        if letter == "R":
            encoding = data[at]
            at += 1
        elif letter == "L":
            at += 1
        elif letter == "P":
            kind = data[at]
            at = at + 1 if kind == dw.DW_EH_PE_omit else _number(data, at + 1, kind & 0x0F)[1]
        elif letter not in "SB":
            raise BadDwarf(f"has a CIE with augmentation {letter!r}")
    return encoding


def _run(fde: _Fde, link: int) -> _State | None:
    """The row at `link`: the CIE's program, then the FDE's up to that address."""
    initial = _Machine(fde.cie, None).run(fde.cie.program, 0, None)
    return None if initial is None else _Machine(fde.cie, initial).run(fde.program, fde.low, link)


class _Machine:
    """The call-frame instructions (DWARF 5 section 6.4.2): rows built up to an address.

    An instruction is a method of the name that the standard gives it; it takes its operands from
    `code` at `at`. What needs an expression to be evaluated is ``other``: not known here.
    """

    def __init__(self, cie: _Cie, initial: _State | None) -> None:
        self.cie = cie
        self.initial = initial
        self.state = _State() if initial is None else _State(initial.cfa, dict(initial.rules))
        self.kept: list[_State] = []
        self.program = _Program(b"", 0)
        self.at = 0
        self.where = 0

    def run(self, program: _Program, where: int, link: int | None) -> _State | None:
        """The row that holds at `link` (None: the last) of a program that starts at `where`; None
        with an instruction that is not known."""
        self.program, self.at, self.where = program, 0, where
        code = program.code
        while self.at < len(code):
            op = code[self.at]
            self.at += 1
            packed = op & 0xC0
            if packed == dw.DW_CFA_advance_loc:
                self.advance(op & 0x3F)
            elif packed == dw.DW_CFA_offset:
                self.offset(op & 0x3F, self.uleb() * self.cie.data_align)
            elif packed == dw.DW_CFA_restore:
                self.restore(op & 0x3F)
            elif op in _INSTRUCTIONS:
                _INSTRUCTIONS[op](self)
            else:
                return None  # of a vendor: neither its operands nor its meaning are known
            if link is not None and self.where > link:
                break  # what follows moves on or belongs to the next row, this one is complete
        return self.state

    # Operands ------------------------------------------------------------------------------

    def uleb(self) -> int:
        value, self.at = uleb(self.program.code, self.at)
        return value

    def sleb(self) -> int:
        value, self.at = sleb(self.program.code, self.at)
        return value

    def fixed(self, size: int) -> int:
        value = unsigned(self.program.code, self.at, size)
        self.at += size
        return value

    def expression(self) -> None:
        """Step over a block."""
        size = self.uleb()
        if size > len(self.program.code) - self.at:
            raise IndexError
        self.at += size

    # Rules ---------------------------------------------------------------------------------

    def advance(self, delta: int) -> None:
        self.where += delta * self.cie.code_align

    def rule(self, register: int, kind: str, operand: int = 0) -> None:
        self.state.rules[register] = kind, operand

    def offset(self, register: int, offset: int) -> None:
        self.rule(register, "offset", offset)

    def restore(self, register: int) -> None:
        known = self.initial.rules.get(register) if self.initial else None
        if known is None:
            self.state.rules.pop(register, None)
        else:
            self.state.rules[register] = known

    def cfa_register(self, register: int) -> None:
        self.state.cfa = register, self.state.cfa[1] if self.state.cfa else 0

    def cfa_offset(self, offset: int) -> None:
        self.state.cfa = self.state.cfa[0] if self.state.cfa else _RSP, offset

    # Instructions --------------------------------------------------------------------------

    def nop(self) -> None:
        """Pads; DW_CFA_GNU_window_save is of SPARC and says nothing here."""

    def set_loc(self) -> None:
        code, start = self.program
        self.where, self.at = read_pointer(code, self.at, self.cie.encoding, start)

    def advance_loc1(self) -> None:
        self.advance(self.fixed(1))

    def advance_loc2(self) -> None:
        self.advance(self.fixed(2))

    def advance_loc4(self) -> None:
        self.advance(self.fixed(4))

    def advance_loc8(self) -> None:
        self.advance(self.fixed(8))

    def offset_extended(self) -> None:
        self.offset(self.uleb(), self.uleb() * self.cie.data_align)

    def offset_extended_sf(self) -> None:
        self.offset(self.uleb(), self.sleb() * self.cie.data_align)

    def negative_offset_extended(self) -> None:
        self.offset(self.uleb(), -self.uleb() * self.cie.data_align)

    def val_offset(self) -> None:
        self.rule(self.uleb(), "val_offset", self.uleb() * self.cie.data_align)

    def val_offset_sf(self) -> None:
        self.rule(self.uleb(), "val_offset", self.sleb() * self.cie.data_align)

    def restore_extended(self) -> None:
        self.restore(self.uleb())

    def undefined(self) -> None:
        self.rule(self.uleb(), "undefined")

    def same_value(self) -> None:
        self.rule(self.uleb(), "same")

    def register(self) -> None:
        self.rule(self.uleb(), "other")
        self.uleb()

    def by_expression(self) -> None:
        """DW_CFA_expression and DW_CFA_val_expression."""
        self.rule(self.uleb(), "other")
        self.expression()

    def remember_state(self) -> None:
        if len(self.kept) >= _MAX_STATES:
            raise BadDwarf("remembers too many states")
        self.kept.append(_State(self.state.cfa, dict(self.state.rules)))

    def restore_state(self) -> None:
        self.state = self.kept.pop()

    def def_cfa(self) -> None:
        self.state.cfa = self.uleb(), self.uleb()

    def def_cfa_sf(self) -> None:
        self.state.cfa = self.uleb(), self.sleb() * self.cie.data_align

    def def_cfa_register(self) -> None:
        self.cfa_register(self.uleb())

    def def_cfa_offset(self) -> None:
        self.cfa_offset(self.uleb())

    def def_cfa_offset_sf(self) -> None:
        self.cfa_offset(self.sleb() * self.cie.data_align)

    def def_cfa_expression(self) -> None:
        self.state.cfa = None
        self.expression()

    def args_size(self) -> None:
        """DW_CFA_GNU_args_size: arguments on the stack, which the CFA is not told by."""
        self.uleb()


_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    dw.DW_CFA_nop: _Machine.nop,
    dw.DW_CFA_set_loc: _Machine.set_loc,
    dw.DW_CFA_advance_loc1: _Machine.advance_loc1,
    dw.DW_CFA_advance_loc2: _Machine.advance_loc2,
    dw.DW_CFA_advance_loc4: _Machine.advance_loc4,
    dw.DW_CFA_offset_extended: _Machine.offset_extended,
    dw.DW_CFA_restore_extended: _Machine.restore_extended,
    dw.DW_CFA_undefined: _Machine.undefined,
    dw.DW_CFA_same_value: _Machine.same_value,
    dw.DW_CFA_register: _Machine.register,
    dw.DW_CFA_remember_state: _Machine.remember_state,
    dw.DW_CFA_restore_state: _Machine.restore_state,
    dw.DW_CFA_def_cfa: _Machine.def_cfa,
    dw.DW_CFA_def_cfa_register: _Machine.def_cfa_register,
    dw.DW_CFA_def_cfa_offset: _Machine.def_cfa_offset,
    dw.DW_CFA_def_cfa_expression: _Machine.def_cfa_expression,
    dw.DW_CFA_expression: _Machine.by_expression,
    dw.DW_CFA_offset_extended_sf: _Machine.offset_extended_sf,
    dw.DW_CFA_def_cfa_sf: _Machine.def_cfa_sf,
    dw.DW_CFA_def_cfa_offset_sf: _Machine.def_cfa_offset_sf,
    dw.DW_CFA_val_offset: _Machine.val_offset,
    dw.DW_CFA_val_offset_sf: _Machine.val_offset_sf,
    dw.DW_CFA_val_expression: _Machine.by_expression,
    dw.DW_CFA_MIPS_advance_loc8: _Machine.advance_loc8,
    dw.DW_CFA_GNU_window_save: _Machine.nop,
    dw.DW_CFA_GNU_args_size: _Machine.args_size,
    dw.DW_CFA_GNU_negative_offset_extended: _Machine.negative_offset_extended,
}


def _rules(fde: _Fde, state: _State, names: Sequence[str]) -> Rules | None:
    if state.cfa is None or state.cfa[0] >= len(names):
        return None
    saved: dict[str, int] = {}
    values: dict[str, int] = {}
    unknown = set()
    for register, (kind, offset) in state.rules.items():
        name = _name(fde, register, names)
        if name is None or kind == "same":
            continue
        if kind == "offset":
            saved[name] = offset
        elif kind == "val_offset":
            values[name] = offset
        elif kind == "other" and register == fde.cie.return_register:
            return None
        else:
            unknown.add(name)
    return Rules(names[state.cfa[0]], state.cfa[1], saved, frozenset(unknown), values)


def _name(fde: _Fde, register: int, names: Sequence[str]) -> str | None:
    if register == fde.cie.return_register:
        return names[-1]
    return names[register] if register < len(names) - 1 else None
