"""Where a Rust panic was raised, read from the handler's argument before it has printed a word.

`rust_begin_unwind(&PanicInfo)` gets the address of a struct whose layout no one promises
(library/core/src/panic/panic_info.rs), but one of its first words leads to a ``Location``: a string
slice, a line and a column. What it leads to is taken for one only when it can be: a short
printable path that ends in ``.rs``, and a line and column that are small.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from breenix_gdbagent.errors import ReadError

WORDS = 4
LONGEST_PATH = 512
LARGEST_LINE = 1 << 20
_LAYOUTS = (("<QQII", (0, 1, 2, 3)), ("<IIQQ", (2, 3, 0, 1)))


@dataclass(frozen=True, slots=True)
class PanicPlace:
    """Source file, line and column of the panic."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


def panic_place(info: int, read: Callable[[int, int], bytes]) -> PanicPlace | None:
    """The place that the ``PanicInfo`` at `info` tells; None where nothing there is a place.

    `read(va, length)` raises `ReadError`.
    """
    try:
        words = struct.unpack(f"<{WORDS}Q", read(info, 8 * WORDS))
    except ReadError:
        return None
    for word in words:
        try:
            place = _location(word, read)
        except (ReadError, UnicodeDecodeError):
            continue
        if place is not None:
            return place
    return None


def _location(address: int, read: Callable[[int, int], bytes]) -> PanicPlace | None:
    raw = read(address, 24)
    for layout, order in _LAYOUTS:
        fields = struct.unpack(layout, raw)
        path, length, line, column = (fields[i] for i in order)
        if not 4 <= length <= LONGEST_PATH or not 0 < line < LARGEST_LINE:
            continue
        if not 0 < column < LARGEST_LINE:
            continue
        # The slice may count a closing NUL (since Rust 1.91).
        text = read(path, length).decode("utf-8").removesuffix("\0")
        if text.isprintable() and text.endswith(".rs"):
            return PanicPlace(text, line, column)
    return None
