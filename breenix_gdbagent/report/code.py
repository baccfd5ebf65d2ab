"""Instructions in words and in JSON."""

from __future__ import annotations

from collections.abc import Sequence

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.views.instructions import Disassembled


def code_json(found: Sequence[Disassembled]) -> list[Json]:
    """`disassemble --json`."""
    return [
        {"address": hex64(i.address), "bytes": i.raw.hex(), "text": i.text, "symbol": i.symbol}
        for i in found
    ]


def code_text(found: Sequence[Disassembled], rip: int | None) -> str:
    """One line an instruction, the one at `rip` marked, a symbol's start named."""
    lines = []
    for i in found:
        if i.symbol is not None and (i is found[0] or "+" not in i.symbol):
            lines.append(f"{i.symbol}:")
        lines.append(f"{'=>' if i.address == rip else '  '} {hex64(i.address)}  {i.text}")
    return "\n".join(lines)
