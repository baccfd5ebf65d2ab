"""An ELF64 x86-64 file as far as symbols need it: header, segments, sections, bytes on demand.

Only headers are read at open; a section's bytes are read when asked for, so that a 30 MB kernel
with DWARF costs what its .symtab costs. Source: System V gABI, chapters 4 and 5.
"""

from __future__ import annotations

import os
import struct
import weakref
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.architectures import ARCHITECTURES, of_elf
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.elf_header import (
    ET_DYN,
    ET_EXEC,
    PT_LOAD,
    PT_NOTE,
    SIZE,
    Header,
    is_elf,
    program_headers,
    read_header,
)

SHT_NOBITS, SHT_NOTE = 8, 7
SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 0x2, 0x4, 0x800
_TYPES = {0: "of no type", 1: "an object file (.o)", 4: "a core"}
# A section of a kernel is never larger; a corrupt size must not make us ask for 2**60 bytes.
_INFLATE_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Section:
    """One section header; `address` is a link address, 0 for what is not loaded."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    entsize: int


class ElfFile:
    """Headers of the kernel ELF at `path`, and its bytes by file offset, section or address.

    Raises `InputError` in one sentence when it is not a little-endian ELF64 x86-64 executable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _open(path)
        weakref.finalize(self, os.close, self._fd)
        status = os.fstat(self._fd)
        self.size = status.st_size
        self._written = status.st_mtime_ns
        head = self._read(0, 64)
        header = _checked_header(path, head, self.size)
        self.type, self.entry, self.header = header.type, header.entry, head
        self.arch = of_elf(header.machine)
        phnum, shnum, shoff = header.phnum, header.shnum, header.shoff
        self._shstrndx = header.shstrndx
        size = header.segment_size
        if (phnum and header.phentsize != size) or (shnum and header.shentsize != 64):
            raise InputError(f"{path} is no kernel ELF: its header tables have odd entry sizes")
        self.segments = tuple(
            program_headers(self._table("program headers", header.phoff, size * phnum), 64)
        )
        self._shoff, self._shnum = shoff, shnum
        self._table("section headers", shoff, 64 * shnum)

    def _table(self, what: str, offset: int, length: int) -> bytes:
        if offset + length > self.size:
            raise InputError(
                f"{self.path} is truncated: its {what} end at byte {offset + length}, "
                f"the file has {self.size}"
            )
        return self.pread(offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read", error.strerror or str(error), "name a file of a disk"
            ) from error

    def pread(self, offset: int, length: int) -> bytes:
        """`length` bytes at a file offset; `InputError` when the file was changed meanwhile."""
        status = os.fstat(self._fd)
        data = self._read(offset, length)
        if (status.st_size, status.st_mtime_ns) != (self.size, self._written):
            raise InputError(f"{self.path} was written to while it was in use", fix="start again")
        while len(data) < length:
            more = self._read(offset + len(data), length - len(data))
            if not more:
                raise InputError(f"{self.path} is truncated at byte {offset + len(data)}")
            data += more
        return data

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All section headers in file order, with their names."""
        table = self._table("section headers", self._shoff, 64 * self._shnum)
        rows = list(struct.iter_unpack("<IIQQQQIIQQ", table))
        names = b""
        if 0 < self._shstrndx < len(rows):
            offset, length = rows[self._shstrndx][4:6]
            names = self._table("section names", offset, length)
        return tuple(
            Section(_string(names, name), kind, flags, address, offset, size, link, entsize)
            for name, kind, flags, address, offset, size, link, _, _, entsize in rows
        )

    @cached_property
    def by_name(self) -> dict[str, Section]:
        """Sections by name; of several with one name the first."""
        found: dict[str, Section] = {}
        for section in self.sections:
            found.setdefault(section.name, section)
        return found

    def section(self, name: str) -> Section | None:
        """The section of that name, None when there is none."""
        return self.by_name.get(name)

    def data(self, name: str) -> bytes:
        """The bytes of a section, inflated when compressed (gABI Elf64_Chdr); b"" when absent.

        Raises `InputError` naming the section when it does not lie in the file.
        """
        section = self.section(name)
        if section is None or section.type == SHT_NOBITS:
            return b""
        if section.offset + section.size > self.size:
            raise self.corrupt(name, f"ends at byte {section.offset + section.size} of {self.size}")
        raw = self.pread(section.offset, section.size)
        return self._inflate(section, raw) if section.flags & SHF_COMPRESSED else raw

    def _inflate(self, section: Section, raw: bytes) -> bytes:
        if len(raw) < 24:
            raise self.corrupt(section.name, "is compressed but has no header")
        kind, _, size, _ = struct.unpack_from("<IIQQ", raw)
        if kind != 1 or size > _INFLATE_LIMIT:
            raise self.corrupt(section.name, f"has compression type {kind}, only zlib is read")
        try:
            # A limit of 0 would be none.
            data = zlib.decompressobj().decompress(raw[24:], max(size, 1))
        except zlib.error as error:
            raise self.corrupt(section.name, f"does not inflate ({error})") from None
        if len(data) != size:
            raise self.corrupt(section.name, f"inflates to {len(data)} bytes, not {size}")
        return data

    def corrupt(self, section: str, how: str) -> InputError:
        """The error for a section that is not what it should be."""
        return InputError(f"section {section} of {self.path} {how}")

    def at(self, address: int, length: int) -> bytes | None:
        """The file's bytes for [address, +length) by link address.

        None when they are not in one segment's file part (.bss, a hole, another section).
        """
        for seg in self.segments:
            if seg.type == PT_LOAD and seg.vaddr <= address:
                start = address - seg.vaddr
                if start + length <= seg.filesz and seg.offset + start + length <= self.size:
                    return self.pread(seg.offset + start, length)
        return None


def _open(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"the kernel ELF {path} cannot be opened: {reason}") from None
    if not os.path.isfile(path):  # noqa: PTH113 - follows what os.open followed
        os.close(fd)
        raise InputError(f"the kernel ELF {path} is not a regular file")
    return fd


def _checked_header(path: Path, head: bytes, size: int) -> Header:
    if not size:
        raise InputError(f"{path} is empty, not a kernel ELF")
    if not is_elf(head):
        raise InputError(f"{path} is not an ELF file (it begins with {head[:4].hex(' ')})")
    if len(head) < SIZE:
        raise InputError(f"{path} is truncated: {size} bytes are less than an ELF header")
    header = read_header(head)
    if header is None:
        raise InputError(f"{path} is an ELF file of an unknown class or byte order")
    if header.bits != 64:
        raise InputError(f"{path} is a 32-bit ELF, the kernel is 64-bit")
    known = {arch.elf_machine for arch in ARCHITECTURES}
    if header.machine not in known or not header.little:
        named = _machine(header.machine)
        which = " and ".join(arch.name for arch in ARCHITECTURES)
        raise InputError(f"{path} is built for {named}, only kernels of {which} can be examined")
    if header.type not in (ET_EXEC, ET_DYN):
        what = _TYPES.get(header.type, f"of type {header.type}")
        raise InputError(f"{path} is {what}, not a kernel ELF")
    return header


def _machine(number: int) -> str:
    """The name of an e_machine, as pyelftools has them all; its number where that is not there."""
    try:
        from elftools.elf.descriptions import describe_e_machine
        from elftools.elf.enums import ENUM_E_MACHINE
    except ImportError:
        return f"machine {number}"
    name = next((name for name, value in ENUM_E_MACHINE.items() if value == number), None)
    return f"machine {number}" if name is None else str(describe_e_machine(name))


def _string(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset)
    return table[offset : end if end >= 0 else len(table)].decode("utf-8", "replace")


def build_id(elf: ElfFile) -> str | None:
    """The GNU build-id in hexadecimal, None when the linker wrote none."""
    for seg in elf.segments:
        if seg.type == PT_NOTE and seg.offset + seg.filesz <= elf.size:
            found = _note(elf.pread(seg.offset, seg.filesz), b"GNU\0", 3)
            if found is not None:
                return found.hex()
    for section in elf.sections:
        if section.type == SHT_NOTE and section.name == ".note.gnu.build-id":
            found = _note(elf.data(section.name), b"GNU\0", 3)
            if found is not None:
                return found.hex()
    return None


def _note(data: bytes, owner: bytes, kind: int) -> bytes | None:
    at = 0
    while at + 12 <= len(data):
        namesz, descsz, this = struct.unpack_from("<III", data, at)
        name_at = at + 12
        desc_at = name_at + (namesz + 3 & ~3)
        if data[name_at : name_at + namesz] == owner and this == kind:
            return data[desc_at : desc_at + descsz]
        at = desc_at + (descsz + 3 & ~3)
    return None


def describe_header(head: bytes) -> str:
    """What tells one build's ELF header from another's, in words."""
    entry, _, shoff = struct.unpack_from("<QQQ", head, 24)
    return f"entry {hex64(entry)}, section headers at {hex64(shoff)}"
