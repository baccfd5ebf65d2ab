"""Page tables that hold what a stack has left: return addresses, and frames of exceptions."""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.callsites import LONGEST_CALL, behind_a_call
from breenix_gdbagent.x86.exceptions import FRAME, parse_frame

_WORDS = FRAME.size // 8


def calls_in_table(kernel: Kernel, table: PhysAddr) -> tuple[int, ...]:
    """Code addresses that no table has: behind a call in the kernel's ELF, and the RIP of what an
    exception interrupted. Nothing without the ELF, or where the table cannot be read."""
    image = kernel.stop.image
    if image is None:
        return ()
    try:
        words = kernel.tables.table(table).tolist()
    except ReadError:
        return ()
    returns = [word for word in words if word and _returns_to(kernel, word)]
    return (*returns, *_interrupted(kernel, words))


def _returns_to(kernel: Kernel, word: int) -> bool:
    image = kernel.stop.image
    if image is None or not image.holds(word):
        return False
    before = image.image.read(image.link(word) - LONGEST_CALL, LONGEST_CALL)
    return before is not None and behind_a_call(before)


def _interrupted(kernel: Kernel, words: list[int]) -> Iterator[int]:
    image = kernel.stop.image
    for at in range(len(words) - _WORDS + 1):
        rip, cs = words[at : at + 2]
        if not 8 <= cs <= 0xFFFF or image is None or not image.holds(rip):
            continue
        frame = parse_frame(FRAME.pack(*words[at : at + _WORDS]))
        if frame.clean and frame.cpl == 0 and frame.plausible(kernel.levels):
            yield rip
