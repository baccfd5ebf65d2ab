"""DWARF made by a test: DIEs as values, every form that a compiler may choose.

`Unit(...)` trees go into `.debug_info` and `.debug_abbrev` with their string and address tables;
what rustc does not write (64-bit DWARF, DW_FORM_indirect, discriminant lists) can be had here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.writers.elf import Sec


def uleb(value: int) -> bytes:
    out = b""
    while True:
        byte = value & 0x7F
        value >>= 7
        if not value:
            return out + bytes([byte])
        out += bytes([byte | 0x80])


def sleb(value: int) -> bytes:
    out = b""
    while True:
        byte = value & 0x7F
        value >>= 7
        if value == (-1 if byte & 0x40 else 0):
            return out + bytes([byte])
        out += bytes([byte | 0x80])


@dataclass(eq=False)
class Die:
    """A DIE: `attributes` are (attribute, form, value); a reference's value is another Die."""

    tag: int
    attributes: list[tuple[int, int, object]] = field(default_factory=list)
    children: list[Die] = field(default_factory=list)
    offset: int = -1


@dataclass
class Unit:
    """One unit; `version` 4 or 5, `wide` for 64-bit DWARF."""

    root: Die
    version: int = 4
    wide: bool = False


class Writer:
    """Collects units and gives their sections."""

    def __init__(self) -> None:
        self.strings = b"\0"
        self.line_strings = b"\0"
        self.str_offsets: list[int] = []
        self.addresses: list[int] = []
        self.abbrev = b""
        self.info = b""
        self.patches: list[tuple[int, int, Die]] = []

    def sections(self, *units: Unit) -> list[Sec]:
        for unit in units:
            self._unit(unit)
        info = bytearray(self.info)
        for at, size, die in self.patches:
            info[at : at + size] = die.offset.to_bytes(size, "little")
        wide = any(unit.wide for unit in units)
        table = b"".join(struct.pack("<Q" if wide else "<I", o) for o in self.str_offsets)
        lead = b"\xff\xff\xff\xff" if wide else b""
        lead += struct.pack("<QHH" if wide else "<IHH", len(table) + 4, 5, 0)
        pool = b"".join(struct.pack("<Q", a) for a in self.addresses)
        return [
            Sec(".debug_info", bytes(info)),
            Sec(".debug_abbrev", self.abbrev),
            Sec(".debug_str", self.strings),
            Sec(".debug_line_str", self.line_strings),
            Sec(".debug_str_offsets", lead + table),
            Sec(".debug_addr", struct.pack("<IHBB", len(pool) + 4, 5, 8, 0) + pool),
        ]

    def _unit(self, unit: Unit) -> None:
        size = 8 if unit.wide else 4
        base = len(self.info)
        abbrev_at = len(self.abbrev)
        codes: list[tuple[object, ...]] = []
        head = (12 if unit.wide else 4) + 2 + size + (2 if unit.version == 5 else 1)
        body = self._die(unit.root, base, base + head, size, codes)
        fields = struct.pack("<H", unit.version)
        where = abbrev_at.to_bytes(size, "little")
        fields += bytes([1, 8]) + where if unit.version == 5 else where + b"\x08"
        length = len(fields) + len(body)
        lead = (
            b"\xff\xff\xff\xff" + struct.pack("<Q", length)
            if unit.wide
            else (struct.pack("<I", length))
        )
        self.info += lead + fields + body
        for number, (tag, children, specs) in enumerate(codes, 1):
            self.abbrev += uleb(number) + uleb(tag) + bytes([bool(children)])  # type: ignore[arg-type]
            for attribute, form in specs:  # type: ignore[attr-defined]
                self.abbrev += uleb(attribute) + uleb(form)
            self.abbrev += b"\0\0"
        self.abbrev += b"\0"

    def _die(
        self, die: Die, base: int, at: int, size: int, codes: list[tuple[object, ...]]
    ) -> bytes:
        die.offset = at
        shape = (die.tag, bool(die.children), tuple((a, f) for a, f, _ in die.attributes))
        if shape not in codes:
            codes.append(shape)
        out = uleb(codes.index(shape) + 1)
        for _, form, value in die.attributes:
            out += self._value(form, value, base, at + len(out), size)
        for child in die.children:
            out += self._die(child, base, at + len(out), size, codes)
        return out + (b"\0" if die.children else b"")

    def _value(self, form: int, value: object, base: int, at: int, size: int) -> bytes:
        if isinstance(value, Die):
            # References are written as DW_FORM_ref_addr: absolute, so that order does not matter.
            self.patches.append((at, size, value))
            return bytes(size)
        if form == 0x16:
            inner, real = value  # type: ignore[misc]
            return uleb(inner) + self._value(inner, real, base, at, size)
        if isinstance(value, str):
            return self._string(form, value, size)
        if isinstance(value, bytes):
            lead = {
                0x0A: len(value).to_bytes(1, "little"),
                0x03: struct.pack("<H", len(value)),
                0x04: struct.pack("<I", len(value)),
                0x1E: b"",
            }
            return lead.get(form, uleb(len(value))) + value
        assert isinstance(value, int)
        if form in (0x1B, 0x29):
            self.addresses.append(value)
            index = len(self.addresses) - 1
            return uleb(index) if form == 0x1B else bytes([index])
        if form == 0x0D:
            return sleb(value)
        if form == 0x0F:
            return uleb(value)
        if form == 0x19:
            return b""
        fixed = {0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x17: size}[form]
        return (value & (1 << 8 * fixed) - 1).to_bytes(fixed, "little")

    def _string(self, form: int, value: str, size: int) -> bytes:
        text = value.encode() + b"\0"
        if form == 0x08:
            return text
        if form == 0x1F:
            self.line_strings += text
            return (len(self.line_strings) - len(text)).to_bytes(size, "little")
        self.strings += text
        offset = len(self.strings) - len(text)
        if form == 0x0E:
            return offset.to_bytes(size, "little")
        self.str_offsets.append(offset)
        index = len(self.str_offsets) - 1
        if form == 0x1A:
            return uleb(index)
        return index.to_bytes({0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4}[form], "little")
