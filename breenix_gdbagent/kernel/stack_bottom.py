"""A stack that nobody lists, by what lies at its lower end: mapped and writable pages above one
that is not mapped, return addresses in them, and which of these come again and again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct

from breenix_gdbagent.addresses import PAGE, VirtAddr, page_base
from breenix_gdbagent.arch.machine import Machine
from breenix_gdbagent.arch.walks import NOT_PRESENT
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.callsites import behind_a_call

LONGEST_RUN = 1 << 20
"""Bytes of a stack that are looked at."""
_LARGEST_LOCALS = 64 << 10
"""How far RSP may have jumped over the end at once."""
_NEAR = 4 << 10
"""The innermost return address lies this close above the end, or above RSP."""
_RED_ZONE = 128
_ROUNDS = 4
_LONGEST_CIRCLE = 64
_WORD = Struct("<Q")


@dataclass(frozen=True, slots=True)
class Circle:
    """Return addresses that lie on a stack again and again: those of one round, innermost first,
    how many rounds there are at least, and how many bytes most rounds take."""

    returns: tuple[VirtAddr, ...]
    rounds: int
    size: int


@dataclass(frozen=True, slots=True)
class StackBottom:
    """The writable run [bottom, top) above a page that is not mapped, in which calls have left
    their return addresses; `circle` is the recursion among them, None where there is none."""

    bottom: VirtAddr
    top: VirtAddr
    circle: Circle | None


def bottom_above(machine: Machine, root: int, rsp: int, va: int) -> StackBottom | None:
    """The stack that an access at `va` fell out of at its lower end, where ring 0 had `rsp`.

    None where that is no overflow: `va` is mapped, is not next to RSP, what lies above is no
    writable memory of ring 0's, or no return address lies where the last calls have left theirs.
    """
    if not rsp - _RED_ZONE <= va or machine.walk(root, va).reason != NOT_PRESENT:
        return None
    bottom = _first_mapped(machine, root, page_base(va) + PAGE)
    if bottom is None or not va < bottom < max(rsp, va) + _LARGEST_LOCALS + PAGE:
        return None
    if rsp > bottom + PAGE:
        return None
    top = _end(machine, root, bottom)
    found = list(returns_on(machine, root, max(bottom, rsp & -8), top))
    circle = circle_of(found)
    first = next((at - max(bottom, rsp) for at, _ in found), None)
    if first is None or (circle is None and first > _NEAR) or first > _LARGEST_LOCALS:
        return None
    return StackBottom(VirtAddr(bottom), VirtAddr(top), circle)


def circle_on(machine: Machine, root: int, rsp: int, top: int) -> Circle | None:
    """The recursion whose return addresses lie between `rsp` and `top`."""
    return circle_of(list(returns_on(machine, root, rsp & -8, min(top, rsp + LONGEST_RUN))))


def returns_on(machine: Machine, root: int, low: int, top: int) -> Iterator[tuple[int, int]]:
    """(where, return address) of what a call has left between `low` and `top`, as far as it is
    mapped: addresses of executable memory behind an instruction that calls."""
    memory, known = machine.memory_of(root), dict[int, bool]()
    at = low
    while at < top:
        length = min(PAGE - (at & PAGE - 1), top - at)
        try:
            raw = memory.read(at, length & -8)
        except ReadError:
            return
        for offset, (word,) in zip(range(0, length, 8), _WORD.iter_unpack(raw), strict=False):
            if word not in known:
                known[word] = _returns_to(machine, root, word)
            if known[word]:
                yield at + offset, word
        at += length


def circle_of(found: list[tuple[int, int]]) -> Circle | None:
    """The recursion that these return addresses show, (where, address) from the innermost out: the
    one that comes most often, every time but a few at the same distance."""
    counts = Counter(word for _, word in found)
    if not counts:
        return None
    word, rounds = counts.most_common(1)[0]
    if rounds < _ROUNDS:
        return None
    indices = [i for i, (_, one) in enumerate(found) if one == word]
    steps = [(found[b][0] - found[a][0], b - a) for a, b in pairwise(indices)]
    (size, length), often = Counter(steps).most_common(1)[0]
    if often * 2 < len(steps) or length > _LONGEST_CIRCLE:
        return None
    start = next(a for a, step in zip(indices, steps, strict=False) if step == (size, length))
    places = tuple(VirtAddr(one) for _, one in found[start : start + length])
    return Circle(places, rounds, size)


def _returns_to(machine: Machine, root: int, word: int) -> bool:
    if word < PAGE:
        return False
    way = machine.walk(root, word)
    right = way.effective
    if right is None or right.nx or right.u:
        return False
    try:
        return behind_a_call(machine.memory_of(root).read(word - 8, 8))
    except ReadError:
        return False


def _first_mapped(machine: Machine, root: int, page: int) -> int | None:
    """The first page from `page` on that ring 0 may write, over at most the locals of one frame."""
    for va in range(page, page + _LARGEST_LOCALS + PAGE, PAGE):
        right = machine.walk(root, va).effective
        if right is not None:
            return va if right.w and not right.u else None
    return None


def _end(machine: Machine, root: int, bottom: int) -> int:
    va = bottom
    while va < bottom + LONGEST_RUN:
        way = machine.walk(root, va)
        if way.effective is None or not way.effective.w or way.size is None:
            break
        va = (va & -way.size) + way.size
    return min(va, bottom + LONGEST_RUN)
