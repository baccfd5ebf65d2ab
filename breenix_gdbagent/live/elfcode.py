"""The code of the kernel's ELF, read with `struct`: where its `lidt` instructions may be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from struct import Struct, error
from typing import NamedTuple

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.x86.paging import slot_start

ET_EXEC, ET_DYN = 2, 3
EM_X86_64 = 62
EM_AARCH64 = 183
SLOTS = range(1, 9)
"""PML4 slots tried for a position-independent kernel: bootloader takes the first free ones
(rust-osdev/bootloader common/src/level_4_entries.rs)."""

SAMPLE = 256
MOST_SITES = 64

_HEADER = Struct("<16xHHIQQ")
_COUNTS = Struct("<54xHH")
_SEGMENT = Struct("<IIQQQQQQ")
_LIDT = re.compile(rb"\x0f\x01[\x18-\x1f\x58-\x5f\x98-\x9f]")
"""0F 01 /3 with a memory operand (SDM volume 2, LIDT): ModRM.reg 3, ModRM.mod not 3."""


class Code(NamedTuple):
    """One executable segment as linked: `paddr` is where a loader without paging puts it."""

    vaddr: int
    paddr: int
    data: bytes


class KernelCode(NamedTuple):
    """What run control needs of a kernel's ELF."""

    name: str
    kind: int
    entry: int
    segments: tuple[Code, ...]

    @classmethod
    def read(cls, path: Path) -> KernelCode:
        """Raises `InputError` for what is no x86-64 kernel ELF."""
        try:
            data = path.read_bytes()
        except OSError as failed:
            raise InputError(f"cannot read {path}", failed.strerror or "") from failed
        if data[:6] != b"\x7fELF\x02\x01":
            raise InputError(f"{path.name} is no 64-bit ELF file", fix="give the kernel's ELF")
        try:
            kind, machine, _, entry, phoff = _HEADER.unpack_from(data)
            size, count = _COUNTS.unpack_from(data)
            headers = [_SEGMENT.unpack_from(data, phoff + i * size) for i in range(count)]
        except error as failed:
            raise InputError(f"{path.name} is damaged: {failed}") from failed
        if machine == EM_AARCH64:
            raise InputError(f"{path.name} is a kernel for aarch64", "the agent reads x86-64 only")
        if machine != EM_X86_64 or kind not in (ET_EXEC, ET_DYN):
            raise InputError(f"{path.name} is no x86-64 kernel")
        segments = tuple(
            Code(vaddr, paddr, data[offset : offset + filesz])
            for type_, flags, offset, vaddr, paddr, filesz, _, _ in headers
            if type_ == 1 and flags & 1 and filesz
        )
        return cls(path.name, kind, entry, segments)

    def lidt_sites(self) -> list[int]:
        """Link-time addresses at which an instruction may start that is ``lidt m``.

        A scan of bytes: constants and the middle of other instructions match too. A REX or
        address-size prefix belongs to the instruction, so the byte before is a start as well.
        """
        sites = []
        for code in self.segments:
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
        out = [int(slot_start(slot)) for slot in SLOTS]
        if identity and self.segments:
            code = self.segments[0]
            out.append(code.paddr - code.vaddr)
        return out

    def samples(self, site: int) -> Iterator[tuple[int, bytes]]:
        """(link-time address, bytes) to compare with memory: around `site`, and both ends."""
        for code in self.segments:
            size = len(code.data)
            if not code.vaddr <= site < code.vaddr + size:
                continue
            around = max(0, site - code.vaddr - SAMPLE // 2)
            for start in (0, around, max(0, size - SAMPLE)):
                yield code.vaddr + start, code.data[start : start + SAMPLE]
