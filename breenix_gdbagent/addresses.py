"""Addresses and counts as the sources name them, and the one way they are printed."""

from __future__ import annotations

from typing import NewType

PhysAddr = NewType("PhysAddr", int)
VirtAddr = NewType("VirtAddr", int)
Hex = NewType("Hex", int)
"""A register, a table entry or an error code: no address, and shown as one is."""

PAGE = 0x1000
NEAR_NULL = 0x1_0000
"""What lies below is reached through a null pointer and a field's offset."""


def hex64(value: int) -> str:
    """``0x`` and lower-case digits, without padding: the form of every address we show."""
    return f"{value:#x}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 page``, ``2 pages``, ``1 more entry``: a count with its noun; `plural` where it is not
    the noun with an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def page_base(address: int) -> int:
    """First byte of the 4 KiB page that holds `address`."""
    return address & ~0xFFF


def canonical(va: int, levels: int = 4) -> bool:
    """Whether `va` is canonical: bits above the top one translated all equal it (SDM 3.3.7.1).

    48 bits are translated with 4 levels of tables, 57 with 5.
    """
    top = va >> (47 if levels == 4 else 56)
    return top == 0 or top == (1 << (64 - (47 if levels == 4 else 56))) - 1


def sign_extended(va: int, levels: int = 4) -> VirtAddr:
    """The canonical address with the translated bits of `va`."""
    bits = 48 if levels == 4 else 57
    low = va & ((1 << bits) - 1)
    if low >> (bits - 1):
        low |= ((1 << 64) - 1) ^ ((1 << bits) - 1)
    return VirtAddr(low)
