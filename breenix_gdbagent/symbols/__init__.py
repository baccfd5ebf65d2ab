"""The kernel's names: ELF image and load bias, lines, Rust types and values, unwinding.

Importing this package costs only what names and addresses need; DWARF, values and unwinding are
in modules of their own (`dwarf_index`, `types`, `values`, `lines`, `unwind`).
"""

from __future__ import annotations

from breenix_gdbagent.symbols.bias import Bias, find_bias, find_loaded
from breenix_gdbagent.symbols.image import Image, LoadedImage
from breenix_gdbagent.symbols.symtab import Symbol, SymbolHit

__all__ = [
    "Bias",
    "Image",
    "LoadedImage",
    "Symbol",
    "SymbolHit",
    "find_bias",
    "find_loaded",
]
