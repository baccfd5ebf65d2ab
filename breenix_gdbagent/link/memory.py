"""Physical memory of a guest that we have no RAM file of: through QEMU's process, or the stub.

Both look at the RAM map first: what is not RAM is never read, because a read of MMIO acts on the
device and a read of a hole makes up bytes.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from breenix_gdbagent.addresses import PAGE, PhysAddr, page_base
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.link.gdbstub import GdbStub
from breenix_gdbagent.memory.interface import PhysicalMemory, RamMap

OUTSIDE = "outside RAM"
UNKNOWN_RAM = "where RAM is is not known"

_PIECE = 1 << 21
_SAMPLE = 1024
_MANY = 64
_PAGEMAP_ENTRY = 8
_PRESENT_OR_SWAPPED = 3 << 62
_HVA = r"Host virtual address for 0x[0-9a-f]+ \(.*\) is (0x[0-9a-f]+)"
_FILE_MAPPING = r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) ([1-9]\d*)"
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

    `faster()` is asked once for a better way, where much is wanted: 100 MB/s is all that a stub
    gives, and what it reads of a sparse shared file is then no longer sparse.
    `progress(done, total)` hears of a sweep over all of RAM, in bytes. The cache belongs to one
    stop: make a new one after the guest ran.
    """

    def __init__(
        self,
        stub: GdbStub,
        ram: RamMap | None,
        faster: Callable[[], PhysicalMemory | None] = lambda: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.ram = ram
        self._stub = stub
        self._pages: dict[int, bytes] = {}
        self._faster = faster
        self._progress = progress
        self._other: PhysicalMemory | None = None
        self._asked = False
        self._swept: list[tuple[int, int]] | None = None

    def _better(self) -> PhysicalMemory | None:
        if not self._asked:
            self._asked = True
            self._other = self._faster()
        return self._other

    def read(self, pa: PhysAddr, length: int) -> bytes:
        """Exactly `length` bytes. Raises `Unreadable`; a stub that fails is `LinkError`."""
        _inside(self.ram, pa, length)
        if len(self._pages) + length // PAGE >= _MANY and (other := self._better()) is not None:
            return other.read(pa, length)
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
        """All of RAM in pieces, those that are all zero left out. Reads it all, unless there is
        a better way (see the class)."""
        other = self._better() if self.ram is not None else None
        if other is not None:
            yield from other.filled()
            return
        if self._swept is None:
            yield from self._sweep()
            return
        for pa, length in self._swept:
            yield PhysAddr(pa), memoryview(self._stub.read_physical([(pa, length)])[0])

    def _sweep(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        """All of RAM; the runs of pages that are not zero are kept for the next time."""
        filled: list[tuple[int, int]] = []
        done, total = 0, self.ram.size if self.ram is not None else 0
        for pa, length in _pieces(self.ram):
            self._progress(done, total)
            data = self._stub.read_physical([(pa, length)])[0]
            done += length
            if data.count(0) == length:
                continue
            for at in range(0, length, PAGE):
                if data.count(0, at, at + PAGE) == PAGE:
                    continue
                if filled and sum(filled[-1]) == pa + at:
                    filled[-1] = (filled[-1][0], filled[-1][1] + PAGE)
                else:
                    filled.append((pa + at, PAGE))
            yield PhysAddr(pa), memoryview(data)
        self._swept = filled
        self._progress(total, total)


class ProcessMemory:
    """A `PhysicalMemory` of QEMU's own memory, by /proc/PID/mem (2 µs for 4 KiB; Linux only)."""

    def __init__(self, pid: int, ram: RamMap, bases: Sequence[int]) -> None:
        """`bases` are the host virtual addresses of the map's ranges, in order."""
        self.ram: RamMap | None = ram
        self._pid = pid
        self._bases = dict(zip((r.start for r in ram.ranges), bases, strict=True))
        self._fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        self._files: list[tuple[int, int, int, io.FileIO]] = []

    @classmethod
    def open(
        cls,
        pid: int,
        ram: RamMap,
        monitor: Callable[[str], str],
        witness: Callable[[Sequence[tuple[int, int]]], list[bytes]] | None = None,
    ) -> ProcessMemory | None:
        """By QEMU's ``gpa2hva`` for each range of RAM; `monitor(line)` asks it.

        `witness` reads the same (physical address, length) by another way: the socket may have
        been handed to QEMU by some other process, which is then the one that `pid` names. None
        where it cannot be done: no Linux, no permission (ptrace), another host or PID namespace,
        another process, an answer that we do not understand.
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
            samples = [(found.start, min(_SAMPLE, found.end - found.start)) for found in ram.ranges]
            seen = [memory.read(pa, length) for pa, length in samples]
        except (OSError, Unreadable):
            return None
        if witness is not None and witness(samples) != seen:
            memory.close()
            return None
        return memory

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            for *_, file in self._files:
                file.close()

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

        Of anonymous memory the kernel tells which pages were ever touched (pagemap), of a file
        where its holes are: the rest is not read at all. Reading a hole through a shared mapping
        would also fill it, and a sparse guest would grow to its full size on the user's disk.
        """
        anonymous = self._anonymous_mappings()
        self._files = self._open_files()
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
            return [(pa + at - hva, size) for at, size in self._in_files(hva, length)]
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

    def _in_files(self, hva: int, length: int) -> list[tuple[int, int]]:
        """The parts of [hva, hva+length) that a mapped file has data for; all of it if unknown."""
        for start, end, offset, file in self._files:
            if start <= hva and hva + length <= end:
                at = hva - start + offset
                try:
                    return [
                        (hva + low - at, high - low) for low, high in _data(file, at, at + length)
                    ]
                except OSError:
                    break
        return [(hva, length)]

    def _open_files(self) -> list[tuple[int, int, int, io.FileIO]]:
        """(start, end, offset, file) of the mappings whose file QEMU still holds open."""
        held: dict[tuple[int, int], Path] = {}
        found = []
        try:
            for entry in Path(f"/proc/{self._pid}/fd").iterdir():
                about = entry.stat()
                if stat.S_ISREG(about.st_mode):
                    held[about.st_dev, about.st_ino] = entry
            text = Path(f"/proc/{self._pid}/maps").read_text()
            for start, end, offset, major, minor, inode in re.findall(_FILE_MAPPING, text):
                entry_of = held.get((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
                if entry_of is not None:
                    place = int(start, 16), int(end, 16), int(offset, 16)
                    found.append((*place, io.FileIO(entry_of)))
        except OSError:
            return []
        return found

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


def _data(file: io.FileIO, low: int, high: int) -> Iterator[tuple[int, int]]:
    """The parts of [low, high) of a file that are no hole."""
    while low < high:
        try:
            low = os.lseek(file.fileno(), low, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        if low >= high:
            return
        end = min(os.lseek(file.fileno(), low, os.SEEK_HOLE), high)
        yield low, end
        low = end


def _pieces(ram: RamMap | None) -> Iterator[tuple[int, int]]:
    for found in ram.ranges if ram is not None else ():
        for start in range(found.start, found.end, _PIECE):
            yield start, min(_PIECE, found.end - start)
