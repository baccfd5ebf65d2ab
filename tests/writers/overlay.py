"""A stopped guest with a few bytes changed: the memory of a saved stop, and patches over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.memory import PhysicalMemory, RamMap
from breenix_gdbagent.stop import Stop

PAGE = 0x1000


class OverlayMemory:
    """`base` with whole frames in the place of its own, made on the first write to them."""

    def __init__(self, base: PhysicalMemory, ram: RamMap | None = None) -> None:
        self.base = base
        self.ram = ram if ram is not None else base.ram
        self.frames: dict[int, bytearray] = {}

    def frame(self, pa: int, *, fresh: bool = False) -> bytearray:
        """The changeable copy of a frame; `fresh` makes it of zeroes."""
        at = pa & ~0xFFF
        if at not in self.frames:
            data = b"\0" * PAGE if fresh else self.base.read(PhysAddr(at), PAGE)
            self.frames[at] = bytearray(data)
        return self.frames[at]

    def write(self, pa: int, data: bytes) -> None:
        offset = pa & 0xFFF
        self.frame(pa)[offset : offset + len(data)] = data

    def set_entry(self, pa: int, raw: int) -> None:
        """One table entry."""
        self.write(pa, raw.to_bytes(8, "little"))

    def entry(self, pa: int) -> int:
        return int.from_bytes(self.read(PhysAddr(pa), 8), "little")

    def copy_frame(self, source: int, target: int) -> None:
        self.frame(target, fresh=True)[:] = self.read(PhysAddr(source & ~0xFFF), PAGE)

    def read(self, pa: PhysAddr, length: int) -> bytes:
        out = bytearray()
        at = int(pa)
        while len(out) < length:
            step = min(length - len(out), PAGE - (at & 0xFFF))
            own = self.frames.get(at & ~0xFFF)
            offset = at & 0xFFF
            out += own[offset : offset + step] if own else self.base.read(PhysAddr(at), step)
            at += step
        return bytes(out)

    def table(self, pa: PhysAddr) -> memoryview:
        own = self.frames.get(pa)
        return memoryview(own).cast("Q") if own else self.base.table(pa)

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        """The base's pieces page by page with ours put in, then those that the base has not."""
        left = dict(self.frames)
        for start, piece in self.base.filled():
            end = start + len(piece)
            mine = [pa for pa in sorted(left) if start <= pa < end]
            at = int(start)
            for pa in mine:
                if pa > at:
                    yield PhysAddr(at), piece[at - start : pa - start]
                yield PhysAddr(pa), memoryview(left.pop(pa))
                at = pa + PAGE
            if at < end:
                yield PhysAddr(at), piece[at - start :]
        for pa in sorted(left):
            yield PhysAddr(pa), memoryview(left[pa])


def overlaid(stop: Stop, ram: RamMap | None = None) -> tuple[Stop, OverlayMemory]:
    """`stop` on a memory that can be written, and that memory."""
    memory = OverlayMemory(stop.memory, ram)
    return stop._replace(memory=memory), memory


def with_registers(stop: Stop, cpu: int = 0, **values: int) -> Stop:
    """`stop` with registers of one CPU changed."""
    cpus = tuple(
        c._replace(registers=_merged(c.registers, values)) if c.index == cpu else c
        for c in stop.cpus
    )
    return stop._replace(cpus=cpus)


def _merged(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, int]:
    return {**old, **new}
