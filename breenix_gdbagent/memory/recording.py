"""A memory that remembers which frames were read: what an examination needed, a snapshot keeps."""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.addresses import PAGE, PhysAddr, page_base
from breenix_gdbagent.memory.interface import PhysicalMemory, RamMap


class RecordingMemory:
    """`source`, with the frames of every successful `read` and `table` in `touched`.

    A scan by `filled` looks at everything and is not counted.
    """

    def __init__(self, source: PhysicalMemory) -> None:
        self.ram: RamMap | None = source.ram
        self.touched: set[int] = set()
        self._source = source

    def read(self, pa: PhysAddr, length: int) -> bytes:
        """As the source."""
        data = self._source.read(pa, length)
        self.touched.update(range(page_base(pa), pa + length, PAGE))
        return data

    def table(self, pa: PhysAddr) -> memoryview:
        """As the source."""
        entries = self._source.table(pa)
        self.touched.add(page_base(pa))
        return entries

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        """As the source."""
        return self._source.filled()
