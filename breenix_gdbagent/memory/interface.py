"""The protocol every memory source speaks, and the map of where RAM is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from breenix_gdbagent.addresses import PhysAddr


class RamRange(NamedTuple):
    """Guest physical [start, end) is RAM, found at `offset` of the RAM file or block."""

    start: PhysAddr
    end: PhysAddr
    offset: int


class RamMap:
    """Where RAM is, as QEMU says (`info mtree -f`): sorted, disjoint ranges.

    What lies outside is a hole or MMIO and is never read: a read of MMIO acts on the device.
    """

    def __init__(self, ranges: Sequence[RamRange]) -> None:
        self.ranges = tuple(sorted(ranges, key=lambda r: r.start))
        self._starts = [r.start for r in self.ranges]

    def find(self, pa: int) -> RamRange | None:
        """The range that holds physical address `pa`, or None."""
        at = bisect_right(self._starts, pa) - 1
        if at >= 0 and pa < self.ranges[at].end:
            return self.ranges[at]
        return None

    def holds(self, pa: int, length: int = 1) -> bool:
        """Whether all of [pa, pa+length) is RAM."""
        while length > 0:
            found = self.find(pa)
            if found is None:
                return False
            step = found.end - pa
            pa += step
            length -= step
        return True

    def outside(self, places: Iterable[int], length: int) -> set[int]:
        """Those of the `places` from which on `length` bytes are not all RAM."""
        return {pa for pa in places if not self.holds(pa, length)}

    @property
    def top(self) -> PhysAddr:
        """First physical address above all RAM."""
        return self.ranges[-1].end if self.ranges else PhysAddr(0)

    @property
    def size(self) -> int:
        """Bytes of RAM."""
        return sum(r.end - r.start for r in self.ranges)


class PhysicalMemory(Protocol):
    """Bytes by guest physical address, of a guest that is stopped.

    `ram` is None when nobody told where RAM is (a bare ELF core): then what is not in the source
    is merely not there, and nothing can be called "beyond RAM".
    """

    ram: RamMap | None

    def read(self, pa: PhysAddr, length: int) -> bytes:
        """Exactly `length` bytes; raises `Unreadable` when any of them cannot be had."""
        ...

    def table(self, pa: PhysAddr) -> memoryview:
        """The 512 8-byte entries of the page-table frame at 4 KiB aligned `pa` (format "Q").

        Raises `Unreadable`. Sources that can give a view without a copy do.
        """
        ...

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        """Page-aligned pieces of all the memory that may be other than zero, in order.

        A hole of a sparse file is skipped; memory that the source lacks is skipped too.
        """
        ...
