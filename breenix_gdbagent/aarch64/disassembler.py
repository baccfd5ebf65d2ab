"""Instructions of A64, by capstone. Importing this loads capstone, which is dear: import it where
an instruction is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import capstone

from breenix_gdbagent.arch.cpu import Instruction


@cache
def _engine(detail: bool, skip_data: bool) -> capstone.Cs:
    engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    engine.detail = detail
    engine.skipdata = skip_data
    return engine


def disassemble(
    code: bytes, address: int, most: int = 0, *, skip_data: bool = False
) -> Iterator[Instruction]:
    """The instructions of `code`, at most so many (0: all), up to the first word that is none;
    `skip_data`: those come as ``.byte`` and it goes on behind them."""
    for found in _engine(False, skip_data).disasm_lite(code, address, most):
        yield Instruction(*found)
