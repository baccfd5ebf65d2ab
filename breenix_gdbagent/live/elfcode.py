"""Where the kernel's ELF has ``lidt`` instructions, and whether its code is at an address."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from breenix_gdbagent.architectures import ARCHITECTURES
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.elf_header import (
    ET_DYN,
    ET_EXEC,
    PF_X,
    PT_LOAD,
    SIZE,
    program_headers,
    read_header,
)
from breenix_gdbagent.x86.paging import slot_starts

SLOTS = range(1, 9)
"""PML4 slots tried for a position-independent kernel: bootloader takes the first free ones
(rust-osdev/bootloader common/src/level_4_entries.rs)."""

SAMPLE = 256
MOST_SITES = 64
_MASK = (1 << 64) - 1

_LIDT = re.compile(rb"\x0f\x01[\x18-\x1f\x58-\x5f\x98-\x9f]")
"""0F 01 /3 with a memory operand (SDM volume 2, LIDT): ModRM.reg 3, ModRM.mod not 3."""


class Code(NamedTuple):
    """One executable segment as linked: `paddr` is where a loader without paging puts it."""

    vaddr: int
    paddr: int
    data: bytes


class KernelCode(NamedTuple):
    """What run control needs of a kernel's ELF. `loads_idt`: its architecture has such a table."""

    name: str
    kind: int
    entry: int
    segments: tuple[Code, ...]
    loads_idt: bool = True

    @classmethod
    def read(cls, path: Path) -> KernelCode:
        """Raises `InputError` for what is no kernel ELF of ours."""
        try:
            data = path.read_bytes()
        except OSError as failed:
            raise InputError(f"cannot read {path}", failed.strerror or "") from failed
        header = read_header(data[:SIZE])
        if header is None or header.bits != 64 or not header.little:
            raise InputError(f"{path.name} is no 64-bit ELF file", fix="give the kernel's ELF")
        size = header.phnum * header.segment_size
        table = data[header.phoff : header.phoff + size]
        if len(table) != size or (size and header.phentsize != header.segment_size):
            raise InputError(f"{path.name} is damaged: its program headers are not all there")
        known = {arch.elf_machine: arch for arch in ARCHITECTURES}
        if header.machine not in known or header.type not in (ET_EXEC, ET_DYN):
            names = " or ".join(arch.name for arch in ARCHITECTURES)
            raise InputError(f"{path.name} is no kernel of {names}")
        segments = tuple(
            Code(s.vaddr, s.paddr, data[s.offset : s.offset + s.filesz])
            for s in program_headers(table, header.bits)
            if s.type == PT_LOAD and s.flags & PF_X and s.filesz
        )
        loads = known[header.machine].descriptor_tables
        return cls(path.name, header.type, header.entry, segments, loads)

    def lidt_sites(self) -> list[int]:
        """Link-time addresses at which an instruction may start that is ``lidt m``.

        A scan of bytes: constants and the middle of other instructions match too. A REX or
        address-size prefix belongs to the instruction, so the byte before is a start as well.
        """
        sites: list[int] = []
        for code in self.segments if self.loads_idt else ():
            for found in _LIDT.finditer(code.data):
                at = found.start()
                sites.append(code.vaddr + at)
                if at and (code.data[at - 1] & 0xF0 == 0x40 or code.data[at - 1] == 0x67):
                    sites.append(code.vaddr + at - 1)
        return sites[:MOST_SITES]

    def bases(self, *, identity: bool) -> list[int]:
        """Load biases that are possible before anything has run.

        `identity`: QEMU's -kernel loaded it at its physical addresses, where it may run first.
        """
        if self.kind == ET_EXEC:
            return [0]
        out: list[int] = [*slot_starts(SLOTS)]
        if identity and self.segments:
            code = self.segments[0]
            out.append(code.paddr - code.vaddr)
        return out

    def stands_at(self, base: int, site: int, read: Callable[[int, int], bytes | None]) -> bool:
        """Whether the segment of a link-time address is in memory at load bias `base`, by the code
        around that address and at both of its ends; False for an address of no segment.

        `read(va, length)` gives None where memory cannot be read.
        """
        samples = list(self.samples(site))
        return bool(samples) and all(
            read((base + at) & _MASK, len(data)) == data for at, data in samples
        )

    @property
    def fixed_bias(self) -> int | None:
        """The load bias of an ELF that is linked to one place, None for another."""
        return 0 if self.kind == ET_EXEC else None

    def at(self, address: int, length: int = 16) -> bytes | None:
        """Code at a link-time address, None outside of it."""
        for code in self.segments:
            start = address - code.vaddr
            if 0 <= start < len(code.data):
                return code.data[start : start + length]
        return None

    def samples(self, site: int) -> Iterator[tuple[int, bytes]]:
        """(link-time address, bytes) to compare with memory: around `site`, and both ends."""
        for code in self.segments:
            size = len(code.data)
            if not code.vaddr <= site < code.vaddr + size:
                continue
            around = max(0, site - code.vaddr - SAMPLE // 2)
            for start in (0, around, max(0, size - SAMPLE)):
                yield code.vaddr + start, code.data[start : start + SAMPLE]
