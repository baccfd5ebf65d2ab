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

ET_CORE = 4
EM_386 = 3
EM_X86_64 = 62
PT_LOAD = 1
PT_NOTE = 4
PN_XNUM = 0xFFFF
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


@dataclass(frozen=True, slots=True)
class _Layout:
    """Offsets that differ between ELF64 and ELF32 (QEMU writes ELF32 before long mode)."""

    header: Struct  # e_type, e_machine, e_phoff, e_shoff, e_phentsize, e_phnum
    segment: Struct
    order: tuple[int, ...]  # where type, offset, vaddr, paddr, filesz, memsz are in it
    section_info: Struct  # sh_info of the first section header, with PN_XNUM


_ELF64 = _Layout(
    Struct("<16xHH12xQQ6xHH"), Struct("<IIQQQQQQ"), (0, 2, 3, 4, 5, 6), Struct("<44xI")
)
_ELF32 = _Layout(Struct("<16xHH8xII6xHH"), Struct("<IIIIIIII"), (0, 1, 2, 3, 4, 5), Struct("<28xI"))
_NOTE = Struct("<III")
WANTED = "give a snapshot of ours, or an ELF core of QEMU's dump-guest-memory"
AGAIN = "copy the file again, or take the dump again"


def read_headers(data: memoryview, name: str) -> Headers:
    """Header, loads and notes of the ELF core in `data`; `name` is for messages.

    Raises `InputError`: not an ELF core of x86, damaged, or not all of it there.
    """
    if bytes(data[:4]) != b"\x7fELF" or len(data) < 64:
        raise InputError(f"{name} is not an ELF file", fix=WANTED)
    layout = {(2, 1): _ELF64, (1, 1): _ELF32}.get((data[4], data[5]))
    if layout is None:
        raise InputError(
            f"{name} is an ELF file of a class or byte order that x86 does not have", fix=WANTED
        )
    kind, machine, phoff, shoff, phentsize, phnum = layout.header.unpack_from(data)
    if kind != ET_CORE:
        why = f"its e_type is {kind}, not 4"
        raise InputError(f"{name} is an ELF file but not a core", why, WANTED)
    if machine not in (EM_386, EM_X86_64):
        why = f"its e_machine is {machine}"
        raise InputError(f"{name} is a core of another processor", why, WANTED)
    if phnum == PN_XNUM:
        if shoff + layout.section_info.size > len(data):
            raise _damaged(name, "the section header with the number of segments is missing")
        (phnum,) = layout.section_info.unpack_from(data, shoff)
    size = layout.segment.size
    if phnum and phentsize != size:
        raise _damaged(name, f"a program header has {phentsize} bytes, not {size}")
    if phnum > MOST_HEADERS:
        raise _damaged(name, f"it claims {phnum} program headers")
    if phoff + phnum * size > len(data):
        raise _damaged(name, "the program headers run past the end of the file")
    loads: list[Load] = []
    notes: list[Note] = []
    noted = 0
    type_, offset_, vaddr_, paddr_, filesz_, memsz_ = layout.order
    for header in layout.segment.iter_unpack(data[phoff : phoff + phnum * size]):
        if header[type_] == PT_LOAD:
            load = Load(*(header[n] for n in (offset_, vaddr_, paddr_, filesz_, memsz_)))
            _check(load, len(data), name)
            loads.append(load)
        elif header[type_] == PT_NOTE:
            noted += header[filesz_]
            # Segments that overlap could make us read the same notes over and over.
            if header[offset_] + header[filesz_] > len(data) or noted > len(data):
                raise _damaged(name, "the notes run past the end of the file")
            piece = data[header[offset_] : header[offset_] + header[filesz_]]
            notes += split_notes(piece, name)
    return Headers(machine, tuple(loads), tuple(notes))


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
