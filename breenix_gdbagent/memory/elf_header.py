"""The header of an ELF file and its program headers, whatever kind of file it is.

Source: System V gABI, chapters 4 and 5. Read with `struct` alone, so that it costs nothing to open
one; what a file has to be, and what is said where it is not, is its readers' business.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

MAGIC = b"\x7fELF"
SIZE = 64
"""Bytes of an ELF64 header, the larger one."""

ET_EXEC, ET_DYN, ET_CORE = 2, 3, 4
EM_386, EM_X86_64, EM_AARCH64 = 3, 62, 183
PT_LOAD, PT_NOTE = 1, 4
PF_X = 1
PF_W = 2
PN_XNUM = 0xFFFF
"""As `phnum`: the number of program headers is in section header 0."""

_HEADERS = {
    (64, "<"): Struct("<16xHHIQQQIHHHHHH"),
    (64, ">"): Struct(">16xHHIQQQIHHHHHH"),
    (32, "<"): Struct("<16xHHIIIIIHHHHHH"),
    (32, ">"): Struct(">16xHHIIIIIHHHHHH"),
}
_SEGMENT_64, _SEGMENT_32 = Struct("<IIQQQQQQ"), Struct("<IIIIIIII")


class Header(NamedTuple):
    """What an ELF file says of itself. `bits` is 32 or 64, `order` as for `struct`; of the program
    and section headers the file offset, the size of one and their number."""

    bits: int
    order: str
    type: int
    machine: int
    entry: int
    phoff: int
    shoff: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int

    @property
    def little(self) -> bool:
        """Whether its numbers are little-endian, as every guest of ours has them."""
        return self.order == "<"

    @property
    def segment_size(self) -> int:
        """Bytes of one program header of its class."""
        return (_SEGMENT_64 if self.bits == 64 else _SEGMENT_32).size


class ProgramHeader(NamedTuple):
    """One program header, its fields in one order for both classes."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


def is_elf(head: bytes) -> bool:
    """Whether the first bytes of a file are an ELF file's."""
    return head[:4] == MAGIC


def read_header(head: bytes | memoryview) -> Header | None:
    """The header that the first `SIZE` bytes hold; None for no ELF, an unknown class or byte order,
    and one that is cut short."""
    if len(head) < SIZE or bytes(head[:4]) != MAGIC:
        return None
    bits, order = {1: 32, 2: 64}.get(head[4]), {1: "<", 2: ">"}.get(head[5])
    if bits is None or order is None:
        return None
    found = _HEADERS[bits, order].unpack_from(head)
    kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, names = found
    return Header(
        bits, order, kind, machine, entry, phoff, shoff, phentsize, phnum, shentsize, shnum, names
    )


def program_headers(table: bytes | memoryview, bits: int) -> Iterator[ProgramHeader]:
    """The program headers in `table`, of little-endian files."""
    if bits == 64:
        for kind, flags, offset, vaddr, paddr, filesz, memsz, _ in _SEGMENT_64.iter_unpack(table):
            yield ProgramHeader(kind, flags, offset, vaddr, paddr, filesz, memsz)
    else:
        for kind, offset, vaddr, paddr, filesz, memsz, flags, _ in _SEGMENT_32.iter_unpack(table):
            yield ProgramHeader(kind, flags, offset, vaddr, paddr, filesz, memsz)
