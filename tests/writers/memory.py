"""Physical memory made by a test: frames in a dictionary, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.memory import RamMap, RamRange


class FrameMemory:
    """A `PhysicalMemory` of the frames given, by 4 KiB aligned physical address.

    Counts how often each table frame was asked for (`asked`).
    """

    def __init__(self, frames: Mapping[int, bytes | bytearray], ram: RamMap | None = None) -> None:
        self.frames = {pa: bytearray(data).ljust(0x1000, b"\0") for pa, data in frames.items()}
        self.ram = ram
        self.asked: dict[int, int] = {}

    def read(self, pa: PhysAddr, length: int) -> bytes:
        out = bytearray()
        at = int(pa)
        while len(out) < length:
            frame = self.frames.get(at & ~0xFFF)
            if frame is None:
                raise Unreadable(PhysAddr(at), length - len(out), "not in this test")
            offset = at & 0xFFF
            piece = frame[offset : offset + length - len(out)]
            out += piece
            at += len(piece)
        return bytes(out)

    def table(self, pa: PhysAddr) -> memoryview:
        self.asked[pa] = self.asked.get(pa, 0) + 1
        frame = self.frames.get(pa)
        if frame is None:
            raise Unreadable(pa, 0x1000, "not in this test")
        return memoryview(frame).cast("Q")

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        for pa in sorted(self.frames):
            yield PhysAddr(pa), memoryview(self.frames[pa])


def ram_of(*ranges: tuple[int, int]) -> RamMap:
    """A RAM map of [start, end) ranges that follow each other in the RAM file."""
    out, offset = [], 0
    for start, end in ranges:
        out.append(RamRange(PhysAddr(start), PhysAddr(end), offset))
        offset += end - start
    return RamMap(out)
