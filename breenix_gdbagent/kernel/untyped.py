"""What can be read with a symbol table alone, without types: layouts that hold for any field order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from breenix_gdbagent.errors import InputError, ReadError, SymbolNotFound
from breenix_gdbagent.symbols.image import LoadedImage

LONGEST_NAME = 64
_STRUCT = 512
"""Bytes of a struct that are looked through for its name."""
_HEAP = 1 << 30
"""Two things on one heap lie no farther apart."""
_VEC_ALIGN = 8
_LOCKED_VEC = 32


def frames_returned(image: LoadedImage, read: Callable[[int, int], bytes]) -> bool | None:
    """Whether a frame was ever given back to the allocator; None where the symbols do not tell.

    A kernel that has NEXT_FREE_FRAME and no FREE_FRAMES takes none back (2025). FREE_FRAMES is a
    `Mutex<Vec<PhysFrame>>`: while nothing was ever pushed its words are, in whatever order, the
    lock (0 or 1), capacity 0, length 0 and the dangling pointer 8.
    """
    try:
        at = image.va_of("FREE_FRAMES")
    except SymbolNotFound:
        return False if image.image.addresses_of("NEXT_FREE_FRAME") else None
    except InputError:
        return None
    try:
        words = struct.unpack("<4Q", read(at, _LOCKED_VEC))
    except ReadError:
        return None
    return sorted(words)[:2] != [0, 0] or max(words) != _VEC_ALIGN or sum(words) > _VEC_ALIGN + 1


def name_inside(read: Callable[[int, int], bytes], address: int) -> str | None:
    """The first Rust `String` of a struct on the heap at `address`, where it reads as a name: its
    capacity, pointer (onto the heap too) and length lie beside each other, in whatever order. None
    where there is none."""
    try:
        words = struct.unpack(f"<{_STRUCT // 8}Q", read(address, _STRUCT))
    except ReadError:
        return None
    found: dict[int, str] = {}
    for at in range(len(words) - 2):
        length, capacity, pointer = sorted(words[at : at + 3])
        on_heap = abs(pointer - address) < _HEAP
        if not on_heap or not 0 < length <= min(capacity, LONGEST_NAME) or capacity > _STRUCT:
            continue
        try:
            text = read(pointer, length).decode("ascii")
        except (ReadError, UnicodeDecodeError):
            continue
        # A number beside capacity and pointer reads as a shorter length of the same text.
        if text.isprintable() and len(text) > len(found.get(pointer, "")):
            found[pointer] = text
    return next(iter(found.values()), None)
