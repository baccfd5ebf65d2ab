"""A thousand address spaces with one kernel half, written into memory."""

from __future__ import annotations

from tests.writers.memory import FrameMemory
from tests.writers.tables import TableWriter

P, W, U = 1, 2, 4
KERNEL_PAGES = 512
DIRECT_MAP_PAGES = 2048  # of 2 MiB: 4 GiB
USER_PAGES = 16


def many_spaces(count: int) -> tuple[FrameMemory, list[int]]:
    """Memory and the roots of `count` spaces: each with user pages of its own, all with the same
    kernel tables in slots 1, 4, 136 and 256 to 511, as many as Breenix has."""
    writer = TableWriter()
    kernel = writer.new_table()
    for page in range(KERNEL_PAGES):
        for base in (1 << 39, 136 << 39, (0xFFFF << 48) | 402 << 39):
            writer.map(kernel, base + page * 0x1000, 0x1000_0000 + page * 0x1000, P | W, way=P | W)
    for page in range(DIRECT_MAP_PAGES):
        writer.map(kernel, (4 << 39) + (page << 21), page << 21, P | W, level=2, way=P | W)
    shared = {slot: writer.entry(kernel, slot) for slot in (1, 4, 136, 402)}
    roots = []
    for number in range(count):
        root = writer.new_table()
        for page in range(USER_PAGES):
            frame = 0x4000_0000 + (number * USER_PAGES + page) * 0x1000
            writer.map(root, 0x4000_0000 + page * 0x1000, frame, P | W | U, way=P | W | U)
        for slot, raw in shared.items():
            writer.set(root, slot, raw)
        for slot in range(256, 512):
            writer.set(root, slot, shared[402])
        roots.append(root)
    return writer.memory(), roots
