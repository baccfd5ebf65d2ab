"""Instructions of the guest in words and in JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from breenix_gdbagent.addresses import PAGE, hex64
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.cpu import LONGEST_INSTRUCTION

MOST = 4096


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction in memory: Intel syntax."""

    address: int
    raw: bytes
    text: str


def instructions(read: Callable[[int, int], bytes], va: int, count: int) -> list[Instruction]:
    """At most `count` instructions from `va` on, up to the first page that cannot be read.

    Raises `ReadError` when not even the first can be.
    """
    from breenix_gdbagent.x86.disassembler import disassemble

    wanted = min(max(count, 1), MOST)
    data = _readable(read, va, wanted * LONGEST_INSTRUCTION)
    found = [
        Instruction(i.address, data[i.address - va :][: i.size], i.text)
        for i in disassemble(data, va, wanted)
    ]
    if not found:
        raise ReadError(
            f"the bytes at {hex64(va)} are no instruction: {data[:LONGEST_INSTRUCTION].hex(' ')}"
        )
    return found


def _readable(read: Callable[[int, int], bytes], va: int, length: int) -> bytes:
    """Bytes from `va` on as far as pages are there; raises for the first."""
    data = b""
    while len(data) < length:
        at = va + len(data)
        step = min(length - len(data), PAGE - at % PAGE)
        try:
            data += read(at, step)
        except ReadError:
            if not data:
                raise
            break
    return data


def code_json(kernel: Kernel, found: Sequence[Instruction]) -> list[Json]:
    """`disassemble --json`."""
    return [
        {
            "address": hex64(i.address),
            "bytes": i.raw.hex(),
            "text": i.text,
            "symbol": kernel.symbol(i.address),
        }
        for i in found
    ]


def code_text(kernel: Kernel, found: Sequence[Instruction]) -> str:
    """One line an instruction, RIP marked, a symbol's start named."""
    rip = kernel.stop.cpu.get("rip")
    lines = []
    for i in found:
        name = kernel.symbol(i.address)
        if name is not None and (i is found[0] or "+" not in name):
            lines.append(f"{name}:")
        lines.append(f"{'=>' if i.address == rip else '  '} {hex64(i.address)}  {i.text}")
    return "\n".join(lines)
