"""File, line and inlined calls of an address of the running kernel, where its ELF tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.symbols.image import LoadedImage

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.spot import Spot


def spots(image: LoadedImage | None, va: int) -> tuple[Spot, ...]:
    """File, line and inline chain of a kernel address, innermost first; () where not known."""
    if image is None or not image.image.has_dwarf or not image.holds(va):
        return ()
    link = image.link(va)
    symbol = image.image.symbols.covering(link)
    try:
        lines = image.image.debug.lines
        # Hand-written assembly is labels, and has lines only where its unit says so.
        if symbol is not None and symbol.kind == "label" and not lines.is_listed(link):
            return ()
        return lines.at(link)
    except InputError:
        return ()
