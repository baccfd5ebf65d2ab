"""How much of a kernel stack is free, and how deep it was ever used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.running import running
from breenix_gdbagent.kernel.stacks import KernelStack

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.view import Kernel

_WORD = 8
_HIGH = 4  # bytes of an address that all of a stack, and all of the kernel's code, have in common


@dataclass(frozen=True, slots=True)
class Room:
    """`free` are the bytes below the lowest RSP that stands on the stack (a CPU's, or one that a
    thread was switched away with), None when nobody does. `deepest` is the lowest address that
    holds what only use of the stack leaves there, None when there is none; `unread` why that could
    not be looked for."""

    free: int | None
    deepest: int | None
    unread: str = ""


def room_of(kernel: Kernel, stack: KernelStack) -> Room:
    """What is free of a stack, as far as the memory of this stop tells."""
    lowest = min((rsp for rsp in _pointers(kernel) if stack.holds(rsp)), default=None)
    free = None if lowest is None else lowest - stack.bottom
    root = kernel.reference_root
    if root is None:
        return Room(free, None, kernel.stop.no_paging)
    try:
        raw = kernel.memory_of(root).read(stack.bottom, stack.size)
    except ReadError as lacking:
        return Room(free, None, lacking.what)
    found = [_lowest_word(raw, stack.bottom, stack.top)]
    image = kernel.stop.image
    text = None if image is None else image.image.text
    # Where frames come back, code addresses may be what another stack left in them.
    if image is not None and text is not None and not kernel.frames_come_back:
        start = text.address + image.bias
        found.append(_lowest_word(raw, start, start + text.size))
    offsets = [offset for offset in found if offset is not None]
    return Room(free, stack.bottom + min(offsets) if offsets else None)


def _pointers(kernel: Kernel) -> Iterator[int]:
    for cpu in kernel.stop.cpus:
        here = running(kernel, cpu)
        if here is not None and here.cpl == 0:
            yield here.rsp
        rsp = cpu.stack
        if rsp is not None:
            yield rsp
    try:
        threads = kernel.structures.scheduler.threads
    except ReadError:
        return
    yield from (t.context.rsp for t in threads if t.alive and t.context.cpl == 0)


def _lowest_word(raw: bytes, low: int, high: int) -> int | None:
    """Offset of the first aligned word of `raw` within [low, high], which have their upper half in
    common; looked for by that half, so that half a megabyte costs no loop over its words."""
    half = (low >> 8 * _HIGH).to_bytes(_HIGH, "little")
    at = raw.find(half, _HIGH)
    while at >= 0:
        start = at - _HIGH
        if (
            start % _WORD == 0
            and low <= int.from_bytes(raw[start : start + _WORD], "little") <= high
        ):
            return start
        at = raw.find(half, at + 1)
    return None
