"""The code at which a CPU stands: of an exception of the kernel's own, what it interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import ReadError

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.view import Kernel
    from breenix_gdbagent.views.instructions import Disassembled

BEFORE, BEHIND = 5, 6
"""Instructions before the address, and from it on."""
LARGEST_FUNCTION = 4096
"""Bytes of a function that are decoded to get at what comes before an address."""


@dataclass(frozen=True, slots=True)
class CodeAround:
    """Instructions around `at`, which is one of them; or what is `lacking`."""

    at: int
    instructions: tuple[Disassembled, ...] = ()
    lacking: str = ""


def looked_at(kernel: Kernel, cpu: Cpu) -> int | None:
    """Where the code of interest is: the instruction that an exception of ring 0 interrupted, where
    `cpu` stopped before the handler of one; else where the CPU stands."""
    try:
        event = kernel.event if cpu is kernel.stop.cpu else None
    except ReadError:
        event = None
    return cpu.at if event is None or event.cpl else int(event.rip)


def code_around(
    kernel: Kernel, cpu: Cpu, at: int | None, before: int = BEFORE, behind: int = BEHIND
) -> CodeAround:
    """Instructions around `at` in the space of `cpu`. Never raises."""
    from breenix_gdbagent.views.instructions import instructions

    root = cpu.root
    if at is None:
        return CodeAround(0, lacking="where the CPU stands is not known")
    if root is None or cpu.paging is None:
        return CodeAround(at, lacking="paging is off: no code is shown")
    try:
        from_there_on = instructions(kernel.arch, kernel.memory_of(root).read, at, behind)
    except ReadError as error:
        return CodeAround(at, lacking=error.what)
    return CodeAround(at, (*instructions_before(kernel, root, at, before), *from_there_on))


def instructions_before(kernel: Kernel, root: int, at: int, most: int) -> list[Disassembled]:
    """The instructions before an address, decoded from the start of its function; none where no
    symbol says where that is."""
    from breenix_gdbagent.views.instructions import instructions

    image = kernel.stop.image
    hit = image.symbol_at(at) if image is not None else None
    if hit is None or image is None or not 0 < hit.offset < LARGEST_FUNCTION:
        return []
    try:
        read = kernel.memory_of(root).read
        found = instructions(kernel.arch, read, image.va(hit.address), hit.offset)
    except ReadError:
        return []
    before = [i for i in found if i.address < at]
    # Data between code may have led the decoding astray: it must meet the address.
    if not before or before[-1].address + len(before[-1].raw) != at:
        return []
    return before[len(before) - min(most, len(before)) :]
