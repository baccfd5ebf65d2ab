"""Physical memory that lies in a file, which is mapped here: what RAM files and ELF cores share."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from breenix_gdbagent.addresses import PAGE, PhysAddr
from breenix_gdbagent.errors import InputError, Unreadable
from breenix_gdbagent.memory.interface import RamMap

OUTSIDE = "outside RAM"
_SAYS_HOLES = hasattr(os, "SEEK_DATA")
_ZERO_TABLE = memoryview(bytes(PAGE)).cast("Q")


@dataclass(frozen=True, slots=True)
class Segment:
    """Guest physical [start, end) lies at `offset` of the file; all zero where that is None."""

    start: int
    end: int
    offset: int | None

    def cut(self, start: int, end: int) -> Segment:
        """The part of it that is [start, end)."""
        moved = None if self.offset is None else self.offset + start - self.start
        return Segment(start, end, moved)


class MappedFile:
    """A regular file, mapped for reading. Its views stay valid for as long as they live.

    Raises `InputError` when there is no such file, it is no regular file or it is empty.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._fd = -1
        try:
            # Not to be held up by a FIFO that nobody writes to.
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path} is not a regular file", fix="name a file of a disk")
            if not status.st_size:
                raise InputError(f"{path} is empty", fix="see whether it was written to its end")
            self.map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        except OSError as refused:
            raise InputError(
                f"{path} cannot be read", refused.strerror or str(refused)
            ) from refused
        self.size = status.st_size
        self.data = memoryview(self.map)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of [start, end) of the file that may hold other than zeros, in order.

        The file system says (SEEK_DATA, SEEK_HOLE); where it cannot, all of it is one part.
        """
        at = start
        while at < end:
            try:
                data = os.lseek(self._fd, at, os.SEEK_DATA) if _SAYS_HOLES else at
                hole = os.lseek(self._fd, data, os.SEEK_HOLE) if _SAYS_HOLES else end
            except OSError as refused:
                if refused.errno != errno.ENXIO:  # ENXIO: nothing but a hole from here on
                    yield at, end
                return
            if data >= end:
                return
            yield data, min(hole, end)
            at = hole


class MappedMemory:
    """A `PhysicalMemory` of file segments. Tables are views of the mapping, without a copy."""

    def __init__(self, file: MappedFile, segments: Iterable[Segment], ram: RamMap | None) -> None:
        self.file = file
        self.ram = ram
        self.segments = disjoint(segments)
        self._starts = [s.start for s in self.segments]

    def why_missing(self, pa: int) -> str:
        """The reason given for a byte that no segment holds."""
        return OUTSIDE

    def read(self, pa: PhysAddr, length: int) -> bytes:
        """Exactly `length` bytes at `pa`; raises `Unreadable` for the first that is not there."""
        at = bisect_right(self._starts, pa) - 1
        if at >= 0:
            found = self.segments[at]
            if pa + length <= found.end and found.offset is not None:
                start = found.offset + pa - found.start
                return self.file.map[start : start + length]
        return b"".join(self._pieces(pa, length))

    def _pieces(self, pa: int, length: int) -> Iterator[bytes]:
        end = pa + length
        at = bisect_right(self._starts, pa) - 1
        while pa < end:
            found = self.segments[at] if at >= 0 else None
            if found is None or not found.start <= pa < found.end:
                raise Unreadable(PhysAddr(pa), end - pa, self.why_missing(pa))
            stop = min(end, found.end)
            if found.offset is None:
                yield bytes(stop - pa)
            else:
                start = found.offset + pa - found.start
                yield self.file.map[start : start + stop - pa]
            pa = stop
            at = min(at + 1, len(self.segments) - 1)

    def table(self, pa: PhysAddr) -> memoryview:
        """The 512 entries of the frame at `pa`, see `PhysicalMemory.table`."""
        at = bisect_right(self._starts, pa) - 1
        if at >= 0:
            found = self.segments[at]
            if pa + PAGE <= found.end:
                if found.offset is None:
                    return _ZERO_TABLE
                start = found.offset + pa - found.start
                return self.file.data[start : start + PAGE].cast("Q")
        return memoryview(self.read(pa, PAGE)).cast("Q")

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        """Page-aligned pieces of what may be other than zero, see `PhysicalMemory.filled`."""
        for segment in self.segments:
            if segment.offset is None:
                continue
            length = segment.end - segment.start
            for start, end in self.file.extents(segment.offset, segment.offset + length):
                pa = segment.start + start - segment.offset
                first = -(-pa // PAGE) * PAGE
                last = (pa + end - start) // PAGE * PAGE
                if first < last:
                    start += first - pa
                    yield PhysAddr(first), self.file.data[start : start + last - first]


def disjoint(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Sorted segments without overlap, neighbours joined.

    What lies in the file goes before zeros; of two that overlap the one that starts lower wins
    (QEMU's paged cores repeat a page for each address that maps it: the same bytes each time).
    """
    stored: list[Segment] = []
    zero: list[Segment] = []
    for segment in segments:
        (zero if segment.offset is None else stored).append(segment)
    return _overlay(_flat(stored), _flat(zero))


def _flat(segments: list[Segment]) -> list[Segment]:
    """Sorted, each cut to what lies beyond all before it, runs that go on in the file joined."""
    out: list[Segment] = []
    end = 0
    for segment in sorted(segments, key=lambda s: (s.start, -s.end)):
        if segment.end <= end:
            continue
        part = segment.cut(max(segment.start, end), segment.end)
        end = part.end
        if out and out[-1].end == part.start:
            last = out[-1]
            goes_on = None if last.offset is None else last.offset + last.end - last.start
            if goes_on == part.offset:
                out[-1] = Segment(last.start, part.end, last.offset)
                continue
        out.append(part)
    return out


def _overlay(upper: list[Segment], lower: list[Segment]) -> tuple[Segment, ...]:
    """`upper`, and of `lower` what `upper` leaves open; both sorted and without overlap."""
    out: list[Segment] = []
    at = 0
    for segment in lower:
        start = segment.start
        while at < len(upper) and upper[at].start < segment.end:
            above = upper[at]
            if above.start > start:
                out.append(segment.cut(start, above.start))
            start = max(start, above.end)
            if above.end > segment.end:
                break
            out.append(above)
            at += 1
        if start < segment.end:
            out.append(segment.cut(start, segment.end))
    out += upper[at:]
    return tuple(sorted(out, key=lambda s: s.start))
