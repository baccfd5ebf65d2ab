"""The guest's RAM as a file: one that QEMU shares with us, or a raw copy of it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from breenix_gdbagent.addresses import PAGE, PhysAddr, hex64
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.interface import RamMap, RamRange
from breenix_gdbagent.memory.mapped import MappedFile, MappedMemory, Segment

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(0x[0-9a-f][0-9a-f_]*|[0-9]+)(?:([kmgt])(?:i?b)?)?", re.IGNORECASE)
_FOUR_GIB = 1 << 32
_WIDEST = 1 << 52

_SPLIT = {"pc": (0xE000_0000, 0xC000_0000), "q35": (0xB000_0000, 0x8000_0000)}
"""(from this size on, RAM below 4 GiB ends here): hw/i386/pc_piix.c pc_init1, pc_q35.c."""


class RamFile(MappedMemory):
    """A `PhysicalMemory` of the file that QEMU keeps RAM in (``share=on``), or of a copy.

    A read shows what the guest wrote a moment ago; read only while it is stopped. Holes of the
    sparse file are skipped by `filled`. Raises `InputError` when the file is smaller than the map.
    """

    def __init__(self, path: Path, ram: RamMap) -> None:
        file = MappedFile(path)
        needed = max((r.offset + r.end - r.start for r in ram.ranges), default=0)
        if needed > file.size:
            raise InputError(
                f"{file.name} has {file.size} bytes, the RAM map names {needed}",
                "the map belongs to another machine, or the file is not complete",
            )
        super().__init__(file, (Segment(r.start, r.end, r.offset) for r in ram.ranges), ram)


def ram_of_size(size: int, machine: str = "pc") -> RamMap:
    """Where QEMU puts `size` bytes of RAM on x86 ``pc`` or ``q35``.

    From 3.5 GiB on (``pc``; 2.75 GiB on ``q35``) RAM below 4 GiB ends at 3 GiB (2 GiB), and the
    rest follows at 4 GiB: the hole between them is the devices'.
    """
    threshold, below = _SPLIT[machine]
    if size < threshold:
        return RamMap([RamRange(PhysAddr(0), PhysAddr(size), 0)])
    high = RamRange(PhysAddr(_FOUR_GIB), PhysAddr(_FOUR_GIB + size - below), below)
    return RamMap([RamRange(PhysAddr(0), PhysAddr(below), 0), high])


def parse_ram_size(text: str, machine: str = "pc") -> RamMap:
    """A RAM map from what a user wrote: a size, or ranges.

    ``512M``, ``1G``, ``0x20000000`` (see `ram_of_size`), or
    ``0x0-0xc0000000,0x100000000-0x140000000``: physical [start, end), in the order in which they
    follow each other in the RAM file. Raises `InputError`.
    """
    if "-" not in text:
        size = _number(text.strip(), text)
        if size == 0 or size % PAGE or size >= _WIDEST:
            raise _refused(text, "a size of RAM is a multiple of 4096 bytes, and not 0")
        return ram_of_size(size, machine)
    ranges: list[RamRange] = []
    offset = 0
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        start, end = _number(low.strip(), text), _number(high.strip(), text)
        if start >= end or start % PAGE or end % PAGE or end > _WIDEST:
            raise _refused(text, f"{part.strip()} is no range of whole pages, first below last")
        ranges.append(RamRange(PhysAddr(start), PhysAddr(end), offset))
        offset += end - start
    ordered = sorted(ranges, key=lambda r: r.start)
    for one, next_one in pairwise(ordered):
        if next_one.start < one.end:
            raise _refused(text, f"two ranges hold {hex64(next_one.start)}")
    return RamMap(ranges)


def _number(text: str, whole: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise _refused(whole, f"{text!r} is no number of bytes")
    digits, unit = found[1].replace("_", ""), (found[2] or "").upper()
    return int(digits, 16 if digits[:2].lower() == "0x" else 10) * _UNITS[unit]


def _refused(text: str, why: str) -> InputError:
    return InputError(
        f"{text!r} does not say where RAM is",
        why,
        "write a size (512M, 0x20000000) or ranges (0x0-0xc0000000,0x100000000-0x140000000)",
    )
