"""Physical memory copied out of a guest that runs on: a stop that can still be read afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from breenix_gdbagent.addresses import PAGE, PhysAddr, page_base
from breenix_gdbagent.errors import ReadError, Unreadable
from breenix_gdbagent.memory.interface import PhysicalMemory, RamMap

NOT_COPIED = "not copied before the guest ran on"


class CopiedMemory:
    """A `PhysicalMemory` of the frames `frames` of `source` as they are now (None: of all that is
    not zero). A frame that cannot be read is left out."""

    def __init__(self, source: PhysicalMemory, frames: Iterable[int] | None) -> None:
        self.ram: RamMap | None = source.ram
        self._whole = frames is None
        self._pages = dict(_filled(source) if frames is None else _named(source, frames))

    def _page(self, pa: int, wanted: int, length: int) -> bytes:
        page = self._pages.get(pa)
        if page is not None:
            return page
        if self._whole and self.ram is not None and self.ram.holds(PhysAddr(pa), PAGE):
            return bytes(PAGE)
        raise Unreadable(PhysAddr(wanted), length, NOT_COPIED)

    def read(self, pa: PhysAddr, length: int) -> bytes:
        """Exactly `length` bytes at `pa`. Raises `Unreadable` for what was not copied."""
        first = page_base(pa)
        pages = [self._page(at, pa, length) for at in range(first, pa + length, PAGE)]
        return b"".join(pages)[pa - first : pa - first + length]

    def table(self, pa: PhysAddr) -> memoryview:
        """The 512 entries of the frame at `pa`. Raises `Unreadable`."""
        return memoryview(self._page(pa, pa, PAGE)).cast("Q")

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        """The pages that were copied, in order."""
        for pa in sorted(self._pages):
            yield PhysAddr(pa), memoryview(self._pages[pa])


def _named(source: PhysicalMemory, frames: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    for frame in frames:
        try:
            yield frame, source.read(PhysAddr(frame), PAGE)
        except ReadError:
            continue


def _filled(source: PhysicalMemory) -> Iterator[tuple[int, bytes]]:
    for pa, piece in source.filled():
        for at in range(0, len(piece), PAGE):
            page = bytes(piece[at : at + PAGE])
            if any(page):
                yield pa + at, page
