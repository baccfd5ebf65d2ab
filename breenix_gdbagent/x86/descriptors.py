"""IDT gates, GDT descriptors and the TSS as the manual has them (SDM vol. 3, 3.4, 6.14, 7.7)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from breenix_gdbagent.addresses import VirtAddr, page_base
from breenix_gdbagent.arch.cpu import DescriptorTable
from breenix_gdbagent.arch.descriptors import Gate as Gate
from breenix_gdbagent.arch.descriptors import Tss as Tss
from breenix_gdbagent.errors import ReadError

ReadVirtual = Callable[[int, int], bytes]

GATE_SIZE = 16
VECTORS = 256
INTERRUPT_GATE = 0xE
TRAP_GATE = 0xF
TSS_SIZE = 104

# By `struct` and not `construct`, which takes 50 ms to import: all this is read at each stop.
_GATE = struct.Struct("<HHBBHI4x")
_TSS = struct.Struct("<4x3Q8x7Q10xH")


@dataclass(frozen=True, slots=True)
class Segment:
    """A descriptor of the GDT: code, data, or (`system`) a TSS or an LDT. `limit` is in bytes."""

    selector: int
    base: int
    limit: int
    type: int
    system: bool
    dpl: int
    present: bool
    long: bool
    default_big: bool

    @property
    def code(self) -> bool:
        """Whether it is a code segment (type bit 3 of a non-system descriptor)."""
        return not self.system and bool(self.type & 8)

    @property
    def wide(self) -> bool:
        """Whether it has 16 bytes: a TSS or an LDT in 64-bit mode (SDM vol. 3, 3.5.2)."""
        return self.system and self.type in (0x2, 0x9, 0xB)


def parse_gate(vector: int, raw: bytes) -> Gate:
    """One gate from its 16 bytes (SDM vol. 3, figure 6-8)."""
    low, selector, ist, attributes, middle, high = _GATE.unpack(raw)
    return Gate(
        vector,
        VirtAddr(low | middle << 16 | high << 32),
        selector,
        ist & 7,
        attributes & 0xF,
        attributes >> 5 & 3,
        bool(attributes & 0x80),
    )


def read_gates(read: ReadVirtual, idtr: DescriptorTable) -> Mapping[int, Gate]:
    """Vector -> present gate. `read(va, length)` raises `ReadError` where the IDT cannot be read;
    so does this when not even its first page can. Gates on a page that is not there are absent."""
    limit = idtr.limit if idtr.limit is not None else VECTORS * GATE_SIZE - 1
    count = min((limit + 1) // GATE_SIZE, VECTORS)
    gates: dict[int, Gate] = {}
    lacking: ReadError | None = None
    for first, raws in _pages(count, idtr.base):
        try:
            data = read(idtr.base + first * GATE_SIZE, raws * GATE_SIZE)
        except ReadError as error:
            lacking = lacking or error
            continue
        for i in range(raws):
            raw = data[i * GATE_SIZE : (i + 1) * GATE_SIZE]
            if raw[5] & 0x80:
                gates[first + i] = parse_gate(first + i, raw)
    if lacking is not None and not gates:
        raise lacking
    return gates


def _pages(count: int, base: int) -> list[tuple[int, int]]:
    """(first gate, number) of the runs of gates that end with a page."""
    runs: list[tuple[int, int]] = []
    first = 0
    while first < count:
        at = base + first * GATE_SIZE
        left = max((page_base(at) + 0x1000 - at) // GATE_SIZE, 1)
        runs.append((first, min(left, count - first)))
        first += runs[-1][1]
    return runs


def read_tss(read: ReadVirtual, base: int) -> Tss:
    """The TSS at `base`. Raises `ReadError`."""
    *stacks, iomap_base = _TSS.unpack(read(base, TSS_SIZE))
    tops = [VirtAddr(top) for top in stacks]
    return Tss(tops[0], tops[1], tops[2], tuple(tops[3:]), iomap_base)


def parse_segment(selector: int, raw: bytes) -> Segment:
    """A descriptor from its 8 bytes (SDM vol. 3, figure 3-8).

    Of a descriptor of 16 bytes the upper half of the base is not among them.
    """
    value = int.from_bytes(raw, "little")
    limit = value & 0xFFFF | value >> 32 & 0xF_0000
    return Segment(
        selector,
        base=value >> 16 & 0xFF_FFFF | value >> 32 & 0xFF00_0000,
        limit=limit << 12 | 0xFFF if value >> 55 & 1 else limit,
        type=value >> 40 & 0xF,
        system=not value >> 44 & 1,
        dpl=value >> 45 & 3,
        present=bool(value >> 47 & 1),
        long=bool(value >> 53 & 1),
        default_big=bool(value >> 54 & 1),
    )


def read_segment(read: ReadVirtual, gdtr: DescriptorTable, selector: int) -> Segment | None:
    """The descriptor that `selector` names in the GDT, None beyond its limit or for the null
    selector. Raises `ReadError`."""
    index = selector & ~7
    if not index or (gdtr.limit is not None and index + 7 > gdtr.limit):
        return None
    found = parse_segment(selector, read(gdtr.base + index, 8))
    if found.wide and (gdtr.limit is None or index + 15 <= gdtr.limit):
        high = int.from_bytes(read(gdtr.base + index + 8, 4), "little")
        return replace(found, base=found.base | high << 32)
    return found


def read_segments(read: ReadVirtual, gdtr: DescriptorTable) -> tuple[Segment, ...]:
    """All descriptors of the GDT that are not null, in order. Raises `ReadError`."""
    found = []
    index, end = 8, (gdtr.limit if gdtr.limit is not None else 7) + 1
    while index + 8 <= end:
        segment = read_segment(read, gdtr, index)
        index += 8
        if segment is not None and (segment.present or segment.type or segment.limit):
            found.append(segment)
            index += 8 if segment.wide else 0
    return tuple(found)
