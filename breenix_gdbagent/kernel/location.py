"""Addresses as users write them (number, symbol, file:line), resolved at one stop."""

from __future__ import annotations

from breenix_gdbagent.locations import parse_address, parse_number
from breenix_gdbagent.stop import Stop


def address_in(text: str, stop: Stop) -> int:
    """`parse_address` at one stop. Raises `ReadError` too, for a symbol while it is not known where
    the kernel runs."""
    named = stop.image is None and stop.unplaced is not None and parse_number(text) is None
    return parse_address(text, stop.loaded if named else stop.image)
