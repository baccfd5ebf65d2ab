"""Page tables and descriptor tables: what lies in a guest's memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.cpu import DescriptorTable, PagingMode
from breenix_gdbagent.x86.descriptors import read_gates, read_segments, read_tss
from breenix_gdbagent.x86.mapped_space import Spaces
from breenix_gdbagent.x86.paging import Tables, VirtualMemory, Walk, walk
from breenix_gdbagent.x86.reverse import FrameIndex
from breenix_gdbagent.x86.roots import scan_roots
from breenix_gdbagent.x86.runs import mapped_runs
from breenix_gdbagent.x86.verdict import Access, Processor, verdict
from tests.fuzz.target import Target
from tests.writers.machine import GDT_ENTRIES
from tests.writers.memory import FrameMemory, ram_of
from tests.writers.tables import model_lookup

ROOT = 0x1000
FRAMES = 8
ENTRY = struct.Struct("<BHQ")
"""Which frame, which slot, what entry."""


def memory_of(data: bytes) -> FrameMemory:
    frames = {ROOT + 0x1000 * n: bytearray(0x1000) for n in range(FRAMES)}
    for at in range(0, len(data) - ENTRY.size + 1, ENTRY.size):
        frame, slot, raw = ENTRY.unpack_from(data, at)
        struct.pack_into("<Q", frames[ROOT + 0x1000 * (frame % FRAMES)], slot % 512 * 8, raw)
    return FrameMemory(frames, ram_of((0, 1 << 20)))


def page_tables(data: bytes) -> None:
    """The first byte says how many levels, and whether NX counts; entries follow."""
    lead = data[0] if data else 0
    levels, nxe = 4 + (lead & 1), (None, True, False, None)[lead >> 1 & 3]
    memory = memory_of(data[1:])
    tables = Tables(memory)
    space = Spaces(tables, levels, nxe).space(ROOT)
    for one, after in pairwise(space.ranges):
        assert one.start < one.end <= after.start
    for found in space.ranges[:16]:
        for va in (found.start, found.end - 1):
            assert _walked(memory, tables, va, levels, nxe).mapped
            assert VirtualMemory(tables, ROOT, levels).translate(va) is not None
    for gap in space.gaps[:16]:
        _walked(memory, tables, gap.start, levels, nxe)
    for va, pa, length in mapped_runs(tables, ROOT, levels)[:16]:
        assert length >= 0x1000 and walk(tables, ROOT, va, levels).pa == pa
    index = FrameIndex(tables, [ROOT], levels)
    for frame in memory.frames:
        index.who(PhysAddr(frame))
    for candidate in scan_roots(memory, ROOT):
        assert candidate.root in memory.frames


def _walked(memory: FrameMemory, tables: Tables, va: int, levels: int, nxe: bool | None) -> Walk:
    """One walk, held against the plain model of the tests, and what it means for each access."""
    found = walk(tables, ROOT, va, levels, nxe)
    met, reason, _ = model_lookup(memory.frames, ROOT, va, levels)
    assert [entry.raw for entry in found.entries] == met and (found.reason or "mapped") == reason
    for kind in ("read", "write", "fetch"):
        for cpl in (0, 3):
            mode = PagingMode(levels, nxe, wp=True, smep=True, smap=True, pke=False)
            verdict(found, Access(kind, cpl), mode, Processor(width=40))
    return found


def page_tables_seeds() -> Iterator[bytes]:
    def entry(frame: int, slot: int, raw: int) -> bytes:
        return ENTRY.pack(frame, slot, raw)

    down = [entry(n, n, ROOT + 0x1000 * (n + 1) | 7) for n in range(4)]
    yield b"\0" + b"".join(down)
    yield b"\3" + b"".join(down) + entry(4, 4, 0x9000 | 1 << 63 | 5)
    yield b"\0" + entry(0, 511, ROOT | 3) + entry(0, 0, 0x2007) + entry(1, 1, 0x4000_0083)
    yield b"\0" + entry(0, 256, 0x2003) + entry(0, 257, 0x3003) + entry(3, 256, 0x2003)
    yield b"\4" + entry(0, 0, 0x2007) + entry(1, 0, 0x3007) + entry(2, 0, 0x0020_00E7)


def descriptor_tables(data: bytes) -> None:
    """IDT, GDT and TSS in one piece of memory; the first eight bytes say where each begins."""
    lead, body = data[:8].ljust(8, b"\0"), data[8:]
    idt, gdt, tss, limit = struct.unpack("<4H", lead)

    def read(va: int, length: int) -> bytes:
        if va < 0 or va + length > len(body):
            raise ReadError(f"nothing at {va:#x}")
        return body[va : va + length]

    uses = [
        lambda: read_gates(read, DescriptorTable(VirtAddr(idt), limit)),
        lambda: read_segments(read, DescriptorTable(VirtAddr(gdt), limit)),
        lambda: read_tss(read, tss),
    ]
    for use in uses:
        try:
            use()
        except ReadError:
            continue


def descriptor_tables_seeds() -> Iterator[bytes]:
    gate = struct.pack("<HHHHII", 0x1000, 8, 0x8E01, 0x10, 0xFFFF8000, 0)
    segments = struct.pack("<7Q", *GDT_ENTRIES)
    wide = bytes.fromhex("6700001000890000000000000000000000000000")[:16]
    yield struct.pack("<4H", 0, 64, 128, 63) + gate * 4 + segments + wide + bytes(120)
    yield struct.pack("<4H", 0, 0, 0, 0xFFFF) + wide * 8


TARGETS = (
    Target("page-tables", page_tables, page_tables_seeds, longest=1024),
    Target("descriptors", descriptor_tables, descriptor_tables_seeds, longest=512),
)
