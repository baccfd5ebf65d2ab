"""Instructions of the guest, disassembled where they lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from breenix_gdbagent.addresses import PAGE, hex64
from breenix_gdbagent.arch.cpu import Arch
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel

MOST = 4096


@dataclass(frozen=True, slots=True)
class Disassembled:
    """One instruction in memory, `text` in Intel syntax; `symbol` is ``name`` or ``name+0x12``
    where it was asked for and is known."""

    address: int
    raw: bytes
    text: str
    symbol: str | None = None


def named_instructions(kernel: Kernel, root: int, va: int, count: int) -> list[Disassembled]:
    """`instructions` in the space of `root`, each with its symbol. Raises `ReadError`."""
    return [
        Disassembled(i.address, i.raw, i.text, kernel.symbol(i.address))
        for i in instructions(kernel.arch, kernel.memory_of(root).read, va, count)
    ]


def instructions(
    arch: Arch, read: Callable[[int, int], bytes], va: int, count: int
) -> list[Disassembled]:
    """At most `count` instructions from `va` on, up to the first page that cannot be read.

    Raises `ReadError` when not even the first can be.
    """
    wanted = min(max(count, 1), MOST)
    data = _readable(read, va, wanted * arch.longest)
    found = [
        Disassembled(i.address, data[i.address - va :][: i.size], i.text)
        for i in arch.disassemble(data, va, wanted)
    ]
    if not found:
        raise ReadError(
            f"the bytes at {hex64(va)} are no instruction: {data[: arch.longest].hex(' ')}"
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
