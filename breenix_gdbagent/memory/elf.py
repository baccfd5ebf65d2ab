"""The parts of an ELF core that matter to us: header, loads and notes (System V gABI, chapter 5).

Read with `struct` alone, so that opening a core costs a fraction of a millisecond; and of files
that may be damaged or hostile: the work is bounded by the size of the file, and what is wrong
becomes one `InputError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.elf_header import (
    EM_386,
    EM_AARCH64,
    EM_X86_64,
    ET_CORE,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
    SIZE,
    Header,
    is_elf,
    program_headers,
    read_header,
)

MOST_HEADERS = 1 << 20
"""More program headers than a core of any machine we can look at has."""

_WIDEST = 1 << 52


@dataclass(frozen=True, slots=True)
class Load:
    """A PT_LOAD: `filesz` bytes at `offset` are physical memory from `paddr`, mapped at `vaddr`."""

    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


@dataclass(frozen=True, slots=True)
class Note:
    """One note: who defined it, which kind of theirs, and the bytes."""

    owner: str
    type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Headers:
    """What an ELF core says of itself."""

    machine: int
    loads: tuple[Load, ...]
    notes: tuple[Note, ...]


_NOTE = Struct("<III")
_SECTION_INFO = {64: Struct("<44xI"), 32: Struct("<28xI")}  # sh_info of a section header
WANTED = "give a snapshot of ours, or an ELF core of QEMU's dump-guest-memory"
AGAIN = "copy the file again, or take the dump again"


def read_headers(data: memoryview, name: str) -> Headers:
    """Header, loads and notes of the ELF core in `data`; `name` is for messages.

    Raises `InputError`: not an ELF core of x86 or aarch64, damaged, or not all of it there.
    """
    if not is_elf(bytes(data[:4])) or len(data) < SIZE:
        raise InputError(f"{name} is not an ELF file", fix=WANTED)
    header = read_header(data)
    if header is None or not header.little:
        raise InputError(
            f"{name} is an ELF file of a class or byte order that no guest of ours has", fix=WANTED
        )
    if header.type != ET_CORE:
        why = f"its e_type is {header.type}, not 4"
        raise InputError(f"{name} is an ELF file but not a core", why, WANTED)
    if header.machine not in (EM_386, EM_X86_64, EM_AARCH64):
        why = f"its e_machine is {header.machine}"
        raise InputError(f"{name} is a core of another processor", why, WANTED)
    table = _table(data, header, name)
    loads: list[Load] = []
    notes: list[Note] = []
    noted = 0
    for found in program_headers(table, header.bits):
        if found.type == PT_LOAD:
            load = Load(found.offset, found.vaddr, found.paddr, found.filesz, found.memsz)
            _check(load, len(data), name)
            loads.append(load)
        elif found.type == PT_NOTE:
            noted += found.filesz
            # Segments that overlap could make us read the same notes over and over.
            if found.offset + found.filesz > len(data) or noted > len(data):
                raise _damaged(name, "the notes run past the end of the file")
            notes += split_notes(data[found.offset : found.offset + found.filesz], name)
    return Headers(header.machine, tuple(loads), tuple(notes))


def _table(data: memoryview, header: Header, name: str) -> memoryview:
    """The bytes of the program headers."""
    count, size = header.phnum, header.segment_size
    if count == PN_XNUM:
        info = _SECTION_INFO[header.bits]
        if header.shoff + info.size > len(data):
            raise _damaged(name, "the section header with the number of segments is missing")
        (count,) = info.unpack_from(data, header.shoff)
    if count and header.phentsize != size:
        raise _damaged(name, f"a program header has {header.phentsize} bytes, not {size}")
    if count > MOST_HEADERS:
        raise _damaged(name, f"it claims {count} program headers")
    if header.phoff + count * size > len(data):
        raise _damaged(name, "the program headers run past the end of the file")
    return data[header.phoff : header.phoff + count * size]


def split_notes(data: memoryview, name: str) -> Iterator[Note]:
    """The notes in a note segment. Raises `InputError` when one runs past its end."""
    at = 0
    while at + _NOTE.size <= len(data):
        namesz, descsz, kind = _NOTE.unpack_from(data, at)
        owner_at = at + _NOTE.size
        desc_at = owner_at + (namesz + 3 & ~3)
        at = desc_at + (descsz + 3 & ~3)
        if desc_at + descsz > len(data):
            raise _damaged(name, "a note runs past the end of its segment")
        owner = bytes(data[owner_at : owner_at + namesz]).split(b"\0")[0]
        yield Note(owner.decode("ascii", "replace"), kind, bytes(data[desc_at : desc_at + descsz]))


def _check(load: Load, size: int, name: str) -> None:
    where = f"the segment at physical {hex64(load.paddr)}"
    if load.filesz and load.offset + load.filesz > size:
        raise InputError(
            f"{name} is not complete: {where} runs past the end of the file",
            f"it ends at {load.offset + load.filesz}, the file has {size} bytes",
            AGAIN,
        )
    if load.filesz > load.memsz:
        raise _damaged(name, f"{where} has more bytes in the file than in memory")
    if load.paddr + load.memsz > _WIDEST:
        raise _damaged(name, f"{where} claims {load.memsz} bytes, beyond all physical addresses")


def _damaged(name: str, why: str) -> InputError:
    return InputError(f"{name} is damaged: {why}", fix=AGAIN)
