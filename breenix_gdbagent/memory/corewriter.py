"""Writes an ELF core: pages once in the file, and a load for each address they are seen at.

Data first, then notes and program headers (in one pass, the number of loads being known only at
the end), the ELF header last: a file whose writing broke off is no ELF file at all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import BinaryIO

from breenix_gdbagent.addresses import PAGE
from breenix_gdbagent.memory.elf import Load, Note
from breenix_gdbagent.memory.elf_header import (
    EM_X86_64,
    ET_CORE,
    MAGIC,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
)

MOST_VIRTUAL = 50_000
"""Loads for virtual addresses; gdb makes a section of each."""
_ZERO_AREA = 1 << 20
_BLOCK = 64 * PAGE
_ZEROS = bytes(PAGE)

_HEADER = Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = Struct("<IIQQQQQQ")
_SECTION = Struct("<IIQQQQIIQQ")
_NOTE = Struct("<III")
_READ_WRITE_EXECUTE = 7


class CoreWriter:
    """Writes one core to an empty binary file that can seek. `OSError` of the file goes through."""

    def __init__(self, out: BinaryIO, machine: int = EM_X86_64) -> None:
        self._out = out
        self._machine = machine
        self._offset = PAGE
        self._runs: list[tuple[int, int, int | None]] = []  # start, end, offset or zeros
        out.seek(self._offset)

    def keep(self, pa: int, data: memoryview | bytes) -> None:
        """Keeps whole pages from physical `pa` on. Calls come in order of address, each page once.

        Pages that are all zero are noted and take no room in the file.
        """
        for at in range(0, len(data), _BLOCK):
            block = bytes(data[at : at + _BLOCK])
            start = 0
            for page in range(0, len(block), PAGE):
                if block.startswith(_ZEROS, page):
                    self._store(pa + at + start, block, start, page)
                    self.keep_zeros(pa + at + page, PAGE)
                    start = page + PAGE
            self._store(pa + at + start, block, start, len(block))

    def keep_zeros(self, pa: int, length: int) -> None:
        """Keeps whole pages that are known to be zero (none when `length` is 0 or less)."""
        if length > 0:
            self._add(pa, length, None)

    def _store(self, pa: int, block: bytes, start: int, end: int) -> None:
        if start < end:
            self._out.write(memoryview(block)[start:end])
            self._add(pa, end - start, self._offset)
            self._offset += end - start

    def _add(self, pa: int, length: int, offset: int | None) -> None:
        if self._runs:
            start, end, before = self._runs[-1]
            follows = None if before is None else before + end - start
            if end == pa and follows == offset and (before is None) == (offset is None):
                self._runs[-1] = (start, pa + length, before)
                return
        self._runs.append((pa, pa + length, offset))

    def zero_area(self) -> tuple[int, int]:
        """(offset, length) of the part of the file that stands for zeros at virtual addresses.

        gdb takes nothing from a load without bytes in the file, so there is one such part, a hole
        where the file system has holes; the loads of longer runs name it more than once. It is
        settled by the time all pages are kept.
        """
        longest = max((e - s for s, e, offset in self._runs if offset is None), default=0)
        return self._offset, min(longest, max(_ZERO_AREA, self._offset >> 4 & -PAGE))

    def finish(self, notes: Iterable[Note], mapped: Iterable[tuple[int, int, int]]) -> None:
        """Writes what remains. `mapped`: (virtual address, physical address, bytes), the more
        important first; of them the pages that were kept get loads of their own."""
        area, length = self.zero_area()
        loads = list(self._virtual(mapped, area, length))
        loads += self._rest(loads, area)
        at = area + length
        packed = b"".join(_packed(note) for note in notes)
        table = at + len(packed)
        headers = bytearray(_SEGMENT.pack(PT_NOTE, 0, at, 0, 0, len(packed), len(packed), 4))
        for load in loads:
            headers += _SEGMENT.pack(
                *(PT_LOAD, _READ_WRITE_EXECUTE, load.offset, load.vaddr, load.paddr),
                *(load.filesz, load.memsz, PAGE),
            )
        count = len(headers) // _SEGMENT.size
        many = count >= PN_XNUM
        sections = table + len(headers)
        if many:  # the number does not fit e_phnum: it is in section header 0 (gABI, PN_XNUM)
            headers += _SECTION.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0)
        self._out.seek(at)
        self._out.write(packed + headers)
        self._out.seek(0)
        self._out.write(
            _HEADER.pack(
                *((MAGIC + b"\2\1\1").ljust(16, b"\0"), ET_CORE, self._machine, 1, 0, table),
                *(sections if many else 0, 0, _HEADER.size, _SEGMENT.size),
                *(PN_XNUM if many else count, _SECTION.size if many else 0, int(many), 0),
            )
        )

    def _virtual(
        self, mapped: Iterable[tuple[int, int, int]], area: int, area_length: int
    ) -> Iterator[Load]:
        starts = [run[0] for run in self._runs]
        made = 0
        for va, pa, length in mapped:
            at = max(bisect_right(starts, pa) - 1, 0)
            while at < len(self._runs) and self._runs[at][0] < pa + length:
                start, end, offset = self._runs[at]
                low, high = max(start, pa), min(end, pa + length)
                while low < high and made < MOST_VIRTUAL:
                    size = high - low if offset is not None else min(high - low, area_length)
                    place = area if offset is None else offset + low - start
                    yield Load(place, va + low - pa, low, size, size)
                    made += 1
                    low += size
                at += 1

    def _rest(self, loads: list[Load], area: int) -> Iterator[Load]:
        """Loads without a virtual address, for what of the pages kept no other load has."""
        covered = sorted((load.paddr, load.paddr + load.filesz) for load in loads)
        at = 0
        for start, end, offset in self._runs:
            low = start
            while low < end:
                while at < len(covered) and covered[at][1] <= low:
                    at += 1
                high = end if at == len(covered) else min(end, max(covered[at][0], low))
                if high > low:
                    size = high - low
                    if offset is None:
                        yield Load(area, 0, low, 0, size)
                    else:
                        yield Load(offset + low - start, 0, low, size, size)
                    low = high
                else:
                    low = min(end, covered[at][1])


def _packed(note: Note) -> bytes:
    owner = note.owner.encode("ascii") + b"\0"
    head = _NOTE.pack(len(owner), len(note.data), note.type)
    return head + owner.ljust(len(owner) + 3 & ~3, b"\0") + note.data + bytes(-len(note.data) % 4)
