"""A page cache between the values of one stop and its memory."""

from __future__ import annotations

from collections.abc import Callable

from breenix_gdbagent.addresses import PAGE
from breenix_gdbagent.errors import ReadError

_MASK = (1 << 64) - 1
ReadVirtual = Callable[[int, int], bytes]


class PageCache:
    """Whole pages of one address space, kept for one stop: a walk touches few pages often.

    A page that cannot be read as a whole is asked for byte range by byte range.
    """

    def __init__(self, read: ReadVirtual) -> None:
        self._read = read
        self._pages: dict[int, bytes | None] = {}

    def read(self, va: int, length: int) -> bytes:
        """Exactly `length` bytes at `va`; raises `ReadError`."""
        page = va & ~(PAGE - 1)
        offset = va - page
        if offset + length <= PAGE:
            data = self._page(page)
            return self._read(va, length) if data is None else data[offset : offset + length]
        out = bytearray()
        while length > 0:
            piece = min(length, PAGE - offset)
            out += self.read(page + offset, piece)
            length -= piece
            page, offset = (page + PAGE) & _MASK, 0
        return bytes(out)

    def number(self, va: int, size: int) -> int:
        """An unsigned little-endian number; raises `ReadError`."""
        offset = va & PAGE - 1
        data = self._pages.get(va - offset)
        if data is not None and offset + size <= PAGE:
            return int.from_bytes(data[offset : offset + size], "little")
        return int.from_bytes(self.read(va, size), "little")

    def _page(self, page: int) -> bytes | None:
        if page not in self._pages:
            try:
                self._pages[page] = self._read(page, PAGE)
            except ReadError:
                self._pages[page] = None
        return self._pages[page]
