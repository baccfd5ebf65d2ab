"""ELF cores made by a test: honest ones, and ones that lie in any field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from struct import pack

PT_LOAD, PT_NOTE = 1, 4


@dataclass
class Segment:
    """One program header; `data` is put into the file where `offset` is None."""

    type: int = PT_LOAD
    paddr: int = 0
    vaddr: int = 0
    data: bytes = b""
    filesz: int | None = None
    memsz: int | None = None
    offset: int | None = None


@dataclass
class CoreFile:
    """What an ELF core consists of. Every field of the header can be set to something else."""

    segments: Sequence[Segment] = ()
    bits: int = 64
    type: int = 4
    machine: int = 62
    phentsize: int | None = None
    phnum: int | None = None
    phoff: int | None = None
    shoff: int | None = None
    order: int = 1
    tail: bytes = field(default=b"")

    def build(self) -> bytes:
        """The file: header, program headers, data of the segments, `tail`."""
        wide = self.bits == 64
        header, entry = (64, 56) if wide else (52, 32)
        table, data = bytearray(), bytearray()
        base = header + entry * len(self.segments)
        for one in self.segments:
            offset = base + len(data) if one.offset is None else one.offset
            data += one.data if one.offset is None else b""
            size = len(one.data) if one.filesz is None else one.filesz
            memory = size if one.memsz is None else one.memsz
            if wide:
                numbers = (offset, one.vaddr, one.paddr, size, memory, 4096)
                table += pack("<II6Q", one.type, 7, *numbers)
            else:
                numbers = (offset, one.vaddr, one.paddr, size, memory)
                table += pack("<8I", one.type, *numbers, 7, 4096)
        ident = b"\x7fELF" + bytes([2 if wide else 1, self.order, 1]).ljust(12, b"\0")
        count = len(self.segments) if self.phnum is None else self.phnum
        size = entry if self.phentsize is None else self.phentsize
        place = header if self.phoff is None else self.phoff
        words = "QQQ" if wide else "III"
        head = ident + pack(
            f"<HHI{words}IHHHHHH",
            *(self.type, self.machine, 1, 0, place, self.shoff or 0, 0),
            *(header, size, count, 0, 0, 0),
        )
        return bytes(head + table + data + self.tail)


def note(owner: str, type: int, data: bytes) -> bytes:
    """One note, padded."""
    name = owner.encode() + b"\0"
    return (
        pack("<III", len(name), len(data), type)
        + name
        + bytes(-len(name) % 4)
        + data
        + bytes(-len(data) % 4)
    )


def registers_note(index: int = 0, **known: int) -> bytes:
    """The ``QEMU`` note of a CPU (QEMU target/i386/arch_dump.c), what is not named being 0."""
    general = (
        *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11"),
        *("r12", "r13", "r14", "r15", "rip", "eflags"),
    )
    segments = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
    data = pack("<II", 1, 440) + b"".join(pack("<Q", known.get(name, 0)) for name in general)
    for name in segments:
        limit, base = known.get(f"{name}_limit", 0), known.get(f"{name}_base", 0)
        data += pack("<IIIIQ", known.get(name, 0), limit, 0, 0, base)
    data += b"".join(pack("<Q", known.get(f"cr{number}", 0)) for number in range(5))
    return note("QEMU", 0, data + pack("<Q", known.get("k_gs_base", 0)))


def qemu_core(loads: Iterable[Segment], **known: int) -> CoreFile:
    """A core with the registers of one CPU, as QEMU's `dump-guest-memory` writes it."""
    return CoreFile([Segment(PT_NOTE, data=registers_note(**known)), *loads])


class FileInMemory:
    """Stands in for a `MappedFile`, so that thousands of cores cost no file each."""

    def __init__(self, data: bytes, name: str = "core") -> None:
        self.name = name
        self.map = data
        self.data = memoryview(data)
        self.size = len(data)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        yield start, end
