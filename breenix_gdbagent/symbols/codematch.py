"""Where bytes of a running kernel stand in its ELF: code names its own place.

A handler that the IDT names, or the instruction at RIP, is code of the kernel; the bytes there are
looked for in the ELF, and each address that they are found at says where the kernel was loaded.
Code that patches itself (Linux: alternatives, static keys) differs in places, so several pieces
behind each address are looked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from breenix_gdbagent.addresses import PAGE

Code = Sequence[tuple[int, bytes]]
"""(link address, bytes) of the executable segments."""

READ = 96
PIECE = 24
STEP = 12
ENOUGH = 4  # addresses that agree
MOST_ADDRESSES = 24
ANCHOR = 48
ANCHORS = 6
DISTINCT = 16  # byte values: padding and tables of zeros stand everywhere
CHUNK = 1 << 20
MOST_SCANNED = 1 << 29
_MASK = (1 << 64) - 1


def load_votes(
    code: Code, addresses: Iterable[int], read: Callable[[int, int], bytes | None]
) -> Counter[int]:
    """Load bias -> how many of the addresses have the ELF's code at it; page-aligned ones only.

    `read(va, length)` gives None where nothing can be read. A piece that the ELF has twice says
    nothing.
    """
    votes: Counter[int] = Counter()
    for address in list(dict.fromkeys(addresses))[:MOST_ADDRESSES]:
        data = read(address, READ) or read(address, PIECE) or b""
        for at in range(0, len(data) - PIECE + 1, STEP):
            link = _only_place(code, data[at : at + PIECE])
            if link is not None:
                votes[(address + at - link) & _MASK] += 1
                break
        if votes and max(votes.values()) >= ENOUGH:
            break
    return Counter({bias: count for bias, count in votes.items() if bias % PAGE == 0})


def _only_place(code: Code, piece: bytes) -> int | None:
    """The one link address of a piece of code, None for none or several."""
    if len(set(piece)) < PIECE // 4:
        return None
    link = None
    for start, data in code:
        at = data.find(piece)
        if at < 0:
            continue
        if link is not None or data.find(piece, at + 1) >= 0:
            return None
        link = start + at
    return link


def anchors(code: Code) -> list[tuple[int, bytes]]:
    """(link address, bytes) of pieces spread over the code, none across a page's end, that are
    unlikely to stand anywhere else."""
    found: list[tuple[int, bytes]] = []
    for start, data in code:
        for number in range(ANCHORS):
            first = (start + len(data) * (2 * number + 1) // (2 * ANCHORS)) & -PAGE
            for link in range(max(first, start), start + len(data) - ANCHOR, ANCHOR):
                piece = data[link - start : link - start + ANCHOR]
                if link // PAGE == (link + ANCHOR - 1) // PAGE and len(set(piece)) >= DISTINCT:
                    found.append((link, piece))
                    break
    return list(dict.fromkeys(found))[: 2 * ANCHORS]


def scanned(code: Code, mapped: Iterable[tuple[int, memoryview]]) -> Iterator[int]:
    """Load biases at which a piece of the code stands in `mapped`: (virtual address, bytes) of
    executable memory, page-aligned. Each once, in order of meeting."""
    wanted = anchors(code)
    seen: set[int] = set()
    left = MOST_SCANNED
    for va, view in mapped:
        for start in range(0, min(len(view), left), CHUNK):
            data = bytes(view[start : start + CHUNK])
            for link, piece in wanted:
                at = data.find(piece)
                while at >= 0:
                    bias = (va + start + at - link) & _MASK
                    if bias % PAGE == 0 and bias not in seen:
                        seen.add(bias)
                        yield bias
                    at = data.find(piece, at + 1)
        left -= len(view)
        if left <= 0:
            return
