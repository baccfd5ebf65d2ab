"""Physical memory of a guest that we have no RAM file of: through QEMU's process, or the stub.

Both look at the RAM map first: what is not RAM is never read, because a read of MMIO acts on the
device and a read of a hole makes up bytes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from breenix_gdbagent.addresses import PAGE, PhysAddr, page_base
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.link.gdbstub import GdbStub
from breenix_gdbagent.memory.interface import RamMap

OUTSIDE = "outside RAM"
UNKNOWN_RAM = "where RAM is is not known"

_PIECE = 1 << 21
_PAGEMAP_ENTRY = 8
_PRESENT_OR_SWAPPED = 3 << 62
_HVA = r"Host virtual address for 0x[0-9a-f]+ \(.*\) is (0x[0-9a-f]+)"
_MAPPING = r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+)"


def _inside(ram: RamMap | None, pa: int, length: int) -> RamMap:
    """The map; raises `Unreadable` unless all of [pa, pa+length) is RAM."""
    if ram is None:
        raise Unreadable(PhysAddr(pa), length, UNKNOWN_RAM)
    end = pa + length
    while pa < end:
        found = ram.find(pa)
        if found is None:
            raise Unreadable(PhysAddr(pa), end - pa, OUTSIDE)
        pa = found.end
    return ram


class StubMemory:
    """A `PhysicalMemory` over the gdbstub in physical mode, with a cache of pages.

    The cache belongs to one stop: make a new one after the guest ran.
    """

    def __init__(self, stub: GdbStub, ram: RamMap | None) -> None:
        self.ram = ram
        self._stub = stub
        self._pages: dict[int, bytes] = {}

    def read(self, pa: PhysAddr, length: int) -> bytes:
        """Exactly `length` bytes. Raises `Unreadable`; a stub that fails is `LinkError`."""
        _inside(self.ram, pa, length)
        first = page_base(pa)
        frames = range(first, pa + length, PAGE)
        self.prefetch(frames)
        whole = b"".join([self._pages[frame] for frame in frames])
        return whole[pa - first : pa - first + length]

    def prefetch(self, frames: Iterable[int]) -> None:
        """Read these 4 KiB frames that are RAM and not in the cache yet, in one pipeline."""
        ram = self.ram
        missing = [
            frame
            for frame in dict.fromkeys(frames)
            if frame not in self._pages and ram is not None and ram.holds(frame, PAGE)
        ]
        data = self._stub.read_physical([(frame, PAGE) for frame in missing])
        self._pages.update(zip(missing, data, strict=True))

    def table(self, pa: PhysAddr) -> memoryview:
        """The 512 entries of the frame at `pa`, see `PhysicalMemory.table`."""
        return memoryview(self.read(pa, PAGE)).cast("Q")

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        """All of RAM in pieces, those that are all zero left out. Reads it all (100 MB/s)."""
        for pa, length in _pieces(self.ram):
            data = self._stub.read_physical([(pa, length)])[0]
            if data.count(0) != length:
                yield PhysAddr(pa), memoryview(data)


class ProcessMemory:
    """A `PhysicalMemory` of QEMU's own memory, by /proc/PID/mem (2 µs for 4 KiB; Linux only)."""

    def __init__(self, pid: int, ram: RamMap, bases: Sequence[int]) -> None:
        """`bases` are the host virtual addresses of the map's ranges, in order."""
        self.ram: RamMap | None = ram
        self._pid = pid
        self._bases = dict(zip((r.start for r in ram.ranges), bases, strict=True))
        self._fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    @classmethod
    def open(cls, pid: int, ram: RamMap, monitor: Callable[[str], str]) -> ProcessMemory | None:
        """By QEMU's ``gpa2hva`` for each range of RAM; `monitor(line)` asks it.

        None where it cannot be done: no Linux, no permission (ptrace), another host or PID
        namespace, an answer that we do not understand.
        """
        if sys.platform != "linux" or pid <= 0:
            return None
        bases = []
        for found in ram.ranges:
            answer = re.search(_HVA, monitor(f"gpa2hva {found.start:#x}"))
            if answer is None:
                return None
            bases.append(int(answer[1], 16))
        try:
            memory = cls(pid, ram, bases)
            for found in ram.ranges:
                memory.read(found.start, 8)
        except (OSError, Unreadable):
            return None
        return memory

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    __del__ = close

    def read(self, pa: PhysAddr, length: int) -> bytes:
        """Exactly `length` bytes. Raises `Unreadable`, also when QEMU is gone."""
        ram = _inside(self.ram, pa, length)
        parts = []
        while length > 0:
            found = ram.find(pa)
            if found is None:
                raise Unreadable(pa, length, OUTSIDE)
            step = min(length, found.end - pa)
            parts.append(self._pread(pa, self._bases[found.start] + pa - found.start, step))
            pa = PhysAddr(pa + step)
            length -= step
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _pread(self, pa: int, hva: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, hva)
        except OSError as error:
            raise Unreadable(
                PhysAddr(pa), length, f"QEMU's memory cannot be read: {error.strerror}"
            ) from error
        if len(data) != length:
            raise Unreadable(PhysAddr(pa), length, "QEMU's process has ended")
        return data

    def table(self, pa: PhysAddr) -> memoryview:
        """The 512 entries of the frame at `pa`, see `PhysicalMemory.table`."""
        return memoryview(self.read(pa, PAGE)).cast("Q")

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        """RAM in pieces, without what is all zero.

        Of anonymous memory the kernel tells which pages were ever touched (pagemap): the rest is
        not read at all.
        """
        anonymous = self._anonymous_mappings()
        for pa, length in _pieces(self.ram):
            for start, size in self._touched(pa, length, anonymous):
                data = self.read(PhysAddr(start), size)
                if data.count(0) != size:
                    yield PhysAddr(start), memoryview(data)

    def _touched(
        self, pa: int, length: int, anonymous: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """The parts of [pa, pa+length), inside one range, that may be other than zero."""
        found = _inside(self.ram, pa, length).find(pa)
        assert found is not None
        hva = self._bases[found.start] + pa - found.start
        if not any(start <= hva and hva + length <= end for start, end in anonymous):
            return [(pa, length)]
        try:
            with Path(f"/proc/{self._pid}/pagemap").open("rb") as file:
                file.seek(hva // PAGE * _PAGEMAP_ENTRY)
                data = file.read(length // PAGE * _PAGEMAP_ENTRY)
        except OSError:
            return [(pa, length)]
        parts: list[tuple[int, int]] = []
        for i, entry in enumerate(memoryview(data).cast("Q")):
            at = pa + i * PAGE
            if not entry & _PRESENT_OR_SWAPPED:
                continue
            if parts and sum(parts[-1]) == at:
                parts[-1] = (parts[-1][0], parts[-1][1] + PAGE)
            else:
                parts.append((at, PAGE))
        return parts

    def _anonymous_mappings(self) -> list[tuple[int, int]]:
        """QEMU's anonymous mappings (inode 0): what is not there of one is zero."""
        try:
            text = Path(f"/proc/{self._pid}/maps").read_text()
        except OSError:
            return []
        return [
            (int(start, 16), int(end, 16))
            for start, end, inode in re.findall(_MAPPING, text)
            if inode == "0"
        ]


def _pieces(ram: RamMap | None) -> Iterator[tuple[int, int]]:
    for found in ram.ranges if ram is not None else ():
        for start in range(found.start, found.end, _PIECE):
            yield start, min(_PIECE, found.end - start)
