"""ELF64 files made by a test: sections, symbols, segments, nothing else.

The layout follows the gABI by hand, so that a test can break any one field of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
FUNC, OBJECT, NOTYPE = 2, 1, 0


@dataclass
class Sym:
    name: str
    value: int
    size: int = 0
    type: int = FUNC
    section: str = ".text"
    exported: bool = False


@dataclass
class Sec:
    name: str
    data: bytes = b""
    address: int = 0
    flags: int = 0
    type: int = 1
    link: int = 0
    entsize: int = 0
    nobits: int = 0


@dataclass
class Elf:
    """`build()` gives the file; sections with an address are loaded, one PT_LOAD each."""

    sections: list[Sec]
    symbols: list[Sym] = field(default_factory=list)
    type: int = ET_DYN
    machine: int = 62
    entry: int = 0
    header_loaded: bool = False

    def build(self) -> bytes:
        sections = [Sec("", type=0), *self.sections]
        names = {s.name: i for i, s in enumerate(sections)}
        if self.symbols:
            strtab = b"\0"
            table = bytes(24)
            for sym in self.symbols:
                table += struct.pack(
                    "<IBBHQQ",
                    len(strtab),
                    (sym.exported << 4) | sym.type,
                    0,
                    names[sym.section],
                    sym.value,
                    sym.size,
                )
                strtab += sym.name.encode() + b"\0"
            sections += [
                Sec(".symtab", table, type=2, link=len(sections) + 1, entsize=24),
                Sec(".strtab", strtab, type=3),
            ]
        shstr = b""
        starts = []
        for sec in [*sections, Sec(".shstrtab")]:
            starts.append(len(shstr))
            shstr += sec.name.encode() + b"\0"
        sections.append(Sec(".shstrtab", shstr, type=3))
        return self._lay_out(sections, starts)

    def _lay_out(self, sections: list[Sec], starts: list[int]) -> bytes:
        loaded = [s for s in sections if s.address or s.nobits]
        phnum = len(loaded) + self.header_loaded
        body = bytearray(64 + 56 * phnum)
        phdrs, shdrs = b"", b""
        if self.header_loaded:
            phdrs += struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, len(body), len(body), 0x1000)
        for sec, start in zip(sections, starts, strict=True):
            body += bytes(-len(body) % 16)
            if sec.address:
                body += bytes((sec.address - len(body)) % 0x1000 if len(sec.data) > 4096 else 0)
            offset = len(body)
            size = sec.nobits or len(sec.data)
            body += sec.data
            kind = 8 if sec.nobits else sec.type
            shdrs += struct.pack(
                "<IIQQQQIIQQ",
                start,
                kind,
                sec.flags,
                sec.address,
                offset,
                size,
                sec.link,
                0,
                16,
                sec.entsize,
            )
            if sec in loaded:
                phdrs += struct.pack(
                    "<IIQQQQQQ", 1, 5, offset, sec.address, sec.address, len(sec.data), size, 0x1000
                )
        body += bytes(-len(body) % 8)
        body[:64] = struct.pack(
            "<4sBBBBQHHIQQQIHHHHHH",
            b"\x7fELF",
            2,
            1,
            1,
            0,
            0,
            self.type,
            self.machine,
            1,
            self.entry,
            64 if phnum else 0,
            len(body),
            0,
            64,
            56,
            phnum,
            64,
            len(sections),
            len(sections) - 1,
        )
        body[64 : 64 + len(phdrs)] = phdrs
        return bytes(body) + shdrs


def text(data: bytes, address: int = 0x1000) -> Sec:
    return Sec(".text", data, address, SHF_ALLOC | SHF_EXECINSTR)


def note(owner: bytes, kind: int, desc: bytes) -> bytes:
    return struct.pack("<III", len(owner), len(desc), kind) + owner + desc
