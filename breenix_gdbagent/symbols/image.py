"""The kernel's ELF: names and addresses at once, everything dearer when it is asked for.

Addresses here are *link* addresses, as the ELF has them; a `LoadedImage` knows where the kernel
runs (`bias.py` finds that) and speaks virtual addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.memory.elf_header import ET_DYN, PT_LOAD, ProgramHeader
from breenix_gdbagent.symbols.elf import SHF_ALLOC, ElfFile, Section, build_id
from breenix_gdbagent.symbols.symtab import Symbol, SymbolHit, SymbolTable

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.cfi import FrameTable
    from breenix_gdbagent.symbols.debug import DebugInfo
    from breenix_gdbagent.symbols.simulate import Simulator

_MASK = (1 << 64) - 1
_GAP = 1 << 24
"""Bytes of alignment that may lie between two segments of one part of a kernel."""


class Image:
    """One kernel ELF file. Cheap to open; symbols, DWARF, hashes are read when first used."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf

    @classmethod
    def open(cls, path: str | Path) -> Image:
        """The kernel ELF at `path`.

        Raises `InputError` in one sentence: missing, not ELF, 32-bit, another machine, truncated.
        A stripped ELF opens, with `has_symbols` False.
        """
        return cls(ElfFile(Path(path)))

    @property
    def path(self) -> Path:
        return self.elf.path

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.elf.size

    @property
    def entry(self) -> int:
        """e_entry, a link address."""
        return self.elf.entry

    @property
    def relocatable(self) -> bool:
        """ET_DYN: runs anywhere. ET_EXEC runs where it was linked."""
        return self.elf.type == ET_DYN

    @property
    def segments(self) -> tuple[ProgramHeader, ...]:
        return self.elf.segments

    @property
    def sections(self) -> tuple[Section, ...]:
        return self.elf.sections

    @property
    def has_symbols(self) -> bool:
        """Whether there is a .symtab (False: stripped)."""
        return self.elf.section(".symtab") is not None

    @property
    def has_dwarf(self) -> bool:
        """Whether there is debug information for types and lines."""
        return self.elf.section(".debug_info") is not None

    @cached_property
    def build_id(self) -> str | None:
        """The GNU build-id in hexadecimal, None when there is none."""
        return build_id(self.elf)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the whole file in hexadecimal."""
        import hashlib

        digest = hashlib.sha256()
        step = 1 << 20
        for offset in range(0, self.elf.size, step):
            digest.update(self.elf.pread(offset, min(step, self.elf.size - offset)))
        return digest.hexdigest()

    @cached_property
    def extent(self) -> tuple[int, int]:
        """Link addresses [first, end) of what is loaded; (0, 0) without a PT_LOAD."""
        loads = [s for s in self.elf.segments if s.type == PT_LOAD]
        if not loads:
            return 0, 0
        return min(s.vaddr for s in loads), max(s.vaddr + s.memsz for s in loads)

    @cached_property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Link addresses [first, end) of what is loaded, in order; segments that lie no further
        apart than `_GAP` are one part."""
        parts: list[tuple[int, int]] = []
        loads = (s for s in self.elf.segments if s.type == PT_LOAD)
        for first, end in sorted((s.vaddr, s.vaddr + s.memsz) for s in loads):
            if parts and first - parts[-1][1] <= _GAP:
                parts[-1] = parts[-1][0], max(end, parts[-1][1])
            else:
                parts.append((first, end))
        return tuple(parts)

    @property
    def text(self) -> Section | None:
        """The .text section, None when the ELF has none."""
        return self.elf.section(".text")

    def section_data(self, name: str) -> bytes:
        """A section's bytes, b"" when absent; `InputError` naming it when corrupt."""
        return self.elf.data(name)

    def read(self, address: int, length: int) -> bytes | None:
        """The file's bytes for a link address (before relocation), None where it has none."""
        return self.elf.at(address, length)

    @cached_property
    def symbols(self) -> SymbolTable:
        """The symbol table, empty when stripped."""
        return SymbolTable(self.elf)

    @cached_property
    def debug(self) -> DebugInfo:
        """The DWARF of this ELF, read part by part; `InputError` when it has none."""
        from breenix_gdbagent.symbols.debug import DebugInfo

        return DebugInfo(self.elf)

    @cached_property
    def frames(self) -> FrameTable:
        """Call-frame information of .debug_frame and .eh_frame, empty when there is none."""
        from breenix_gdbagent.symbols.cfi import FrameTable

        return FrameTable(self.elf)

    @cached_property
    def simulator(self) -> Simulator:
        """Stack depths from the instructions themselves; loads the disassembler."""
        from breenix_gdbagent.symbols.code import CodeReader
        from breenix_gdbagent.symbols.simulate import Simulator

        return Simulator(CodeReader(self.elf, self.symbols))

    def symbol_at(self, address: int) -> SymbolHit | None:
        """What lies at a link address, None when no symbol covers it."""
        return self.symbols.at(address)

    def address_of(self, name: str) -> int:
        """Link address of the symbol whose path ends in exactly the components of `name`.

        Raises `SymbolNotFound` (with near names), `InputError` when several symbols match.
        """
        return self.symbols.address_of(name)

    def addresses_of(self, name: str) -> tuple[int, ...]:
        """All distinct link addresses of that path; () when there is none."""
        return self.symbols.addresses_of(name)

    def find(self, pattern: str) -> Iterator[Symbol]:
        """Symbols whose path contains `pattern` (a glob when it has ``* ? [``)."""
        return self.symbols.find(pattern)

    def loaded(self, bias: int) -> LoadedImage:
        """This ELF running at link address + `bias`."""
        return LoadedImage(self, bias)


@dataclass(frozen=True)
class LoadedImage:
    """An image where it runs: virtual address = link address + `bias`, modulo 2**64."""

    image: Image
    bias: int

    def link(self, va: int) -> int:
        """The link address of a virtual address."""
        return (va - self.bias) & _MASK

    def va(self, link: int) -> VirtAddr:
        """The virtual address of a link address."""
        return VirtAddr((link + self.bias) & _MASK)

    def holds(self, va: int) -> bool:
        """Whether `va` lies within the loaded kernel: not between its parts, as between a boot
        part at 1 MiB and a kernel in the higher half."""
        return any(first <= self.link(va) < end for first, end in self.image.parts)

    def section_of(self, va: int) -> str | None:
        """The name of the section that a virtual address lies in, None where the ELF has none
        there."""
        link = self.link(va)
        for one in self.image.sections:
            if one.flags & SHF_ALLOC and one.address <= link < one.address + one.size:
                return one.name
        return None

    def symbol_at(self, va: int) -> SymbolHit | None:
        """What lies at a virtual address; `address` of the hit is a link address."""
        return self.image.symbol_at(self.link(va)) if self.holds(va) else None

    def name_of(self, va: int) -> str | None:
        """``path+0xoffset`` of a virtual address, None when no symbol covers it."""
        hit = self.symbol_at(va)
        return None if hit is None else str(hit)

    def va_of(self, name: str) -> VirtAddr:
        """Virtual address of a symbol; raises as `Image.address_of`."""
        return self.va(self.image.address_of(name))
