"""Numbers in gdb's output formats (``p/x``, ``x/4gx``)."""

from __future__ import annotations

import struct

from breenix_gdbagent.addresses import hex64

LETTERS = "xduotaczf"
"""Hexadecimal, signed, unsigned, octal, binary, address, character, hexadecimal with zeros, float.
"""


def formatted(value: int, letter: str, size: int = 8, name: str | None = None) -> str:
    """A number of `size` bytes as gdb prints it; `name` is what lies at it, for ``a``."""
    raw = value & (1 << 8 * size) - 1
    signed = raw - (1 << 8 * size) if raw >> 8 * size - 1 else raw
    if letter == "d":
        return str(signed)
    if letter == "u":
        return str(raw)
    if letter == "o":
        return f"0{raw:o}" if raw else "0"
    if letter == "t":
        return f"{raw:b}"
    if letter == "a":
        return f"{hex64(raw)} <{name}>" if name else hex64(raw)
    if letter == "c":
        code = raw & 0xFF
        shown = chr(code) if 32 <= code < 127 else f"\\{code:03o}"
        return f"{code} '{shown}'"
    if letter == "z":
        return f"{raw:#0{2 + 2 * size}x}"
    if letter == "f" and size in (4, 8):
        return repr(struct.unpack("<f" if size == 4 else "<d", raw.to_bytes(size, "little"))[0])
    return f"{raw:#x}"
