"""Physical memory from an ELF core: of QEMU's `dump-guest-memory` (paged or not), or of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from breenix_gdbagent.memory.elf import Headers, Load, Note, read_headers
from breenix_gdbagent.memory.interface import RamMap
from breenix_gdbagent.memory.mapped import OUTSIDE, MappedFile, MappedMemory, Segment

NOT_KEPT = "not in this core"
OWNER = "BREENIX-GDBAGENT"
"""Under this name stand the notes of our own, see `snapshot`."""


class ElfCore(MappedMemory):
    """A `PhysicalMemory` of the loads of an ELF core, ``p_paddr`` being guest physical.

    What no load holds is not in the core, and is never zero. `ram` comes from elsewhere (a bare
    core has no RAM map). `zeros` is a part (offset, length) of the file known to be all zero.
    """

    def __init__(
        self,
        file: MappedFile,
        headers: Headers,
        ram: RamMap | None = None,
        zeros: tuple[int, int] | None = None,
    ) -> None:
        self.headers = headers
        super().__init__(file, _segments(headers, zeros), ram)

    @classmethod
    def open(cls, path: Path, ram: RamMap | None = None) -> ElfCore:
        """Maps the file and reads its headers.

        Raises `InputError` for a file that is no such core, is damaged or not complete.
        """
        file = MappedFile(path)
        return cls(file, read_headers(file.data, file.name), ram)

    @property
    def notes(self) -> tuple[Note, ...]:
        return self.headers.notes

    def why_missing(self, pa: int) -> str:
        if self.ram is not None and self.ram.find(pa) is None:
            return OUTSIDE
        return NOT_KEPT


def _segments(headers: Headers, zeros: tuple[int, int] | None) -> Iterator[Segment]:
    paged = _is_paged_dump(headers)
    for load in headers.loads:
        if load.filesz:
            stored = zeros is None or not _within(load, *zeros)
            yield Segment(load.paddr, load.paddr + load.filesz, load.offset if stored else None)
        if load.memsz > load.filesz and not paged:
            yield Segment(load.paddr + load.filesz, load.paddr + load.memsz, None)


def _within(load: Load, offset: int, length: int) -> bool:
    return offset <= load.offset and load.offset + load.filesz <= offset + length


def _is_paged_dump(headers: Headers) -> bool:
    """Whether QEMU wrote it with ``paging=true``: then the rest of ``p_memsz`` is no zeros.

    Such a load has the length of the mapping in ``p_memsz`` and in ``p_filesz`` what of it is RAM
    (QEMU dump/dump.c, get_offset_range): the rest is MMIO, or beyond RAM.
    """
    by_qemu = any(note.owner == "QEMU" for note in headers.notes)
    ours = any(note.owner == OWNER for note in headers.notes)
    return by_qemu and not ours and any(load.vaddr for load in headers.loads)
