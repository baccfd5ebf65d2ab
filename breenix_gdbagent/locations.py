"""Numbers as users write them: 0x hexadecimal, decimal, or a symbol with an offset."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import InputError

if TYPE_CHECKING:
    from breenix_gdbagent.symbols import LoadedImage

_HEX = r"0[xX][0-9a-fA-F](_?[0-9a-fA-F])*\Z"
_DECIMAL = r"[0-9](_?[0-9])*\Z"
_SYMBOL = r"(?P<name>[A-Za-z_<$][^+]*?)(?:\+(?P<offset>\w+))?\Z"


def parse_number(text: str) -> int | None:
    """A plain number of at most 64 bits, None when `text` is not one."""
    text = text.strip()
    value = None
    if re.match(_HEX, text):
        value = int(text, 16)
    elif re.match(_DECIMAL, text):
        value = int(text)
    if value is not None and value >> 64:
        raise InputError(f"{text} does not fit in 64 bits", fix="the highest is 0xffffffffffffffff")
    return value


def parse_address(text: str, image: LoadedImage | None) -> int:
    """An address: a number, or ``symbol+offset`` with the kernel's ELF at hand.

    Raises `InputError` for what is neither, `SymbolNotFound` for an unknown symbol.
    """
    value = parse_number(text)
    if value is not None:
        return value
    shape = re.match(_SYMBOL, text.strip())
    if shape is None:
        raise InputError(
            f"{text!r} is no address", fix="write 0x..., a decimal number or symbol+offset"
        )
    offset = parse_number(shape["offset"]) if shape["offset"] else 0
    if offset is None:
        raise InputError(f"{shape['offset']!r} in {text!r} is no number", fix="write +0x10 or +16")
    if image is None:
        raise InputError(
            f"{text!r} is no number, and without the kernel's ELF no symbol is known",
            fix="give --kernel ELF, or write the address as 0x...",
        )
    return (image.va_of(shape["name"].strip()) + offset) & (2**64 - 1)
