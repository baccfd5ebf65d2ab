"""IDT gates, GDT descriptors and the TSS as the manual has them (SDM vol. 3, 3.4, 6.14, 7.7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import VirtAddr, page_base
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.cpu import DescriptorTable

if TYPE_CHECKING:
    from construct import Struct

ReadVirtual = Callable[[int, int], bytes]

GATE_SIZE = 16
VECTORS = 256
INTERRUPT_GATE = 0xE
TRAP_GATE = 0xF
TSS_SIZE = 104


@dataclass(frozen=True, slots=True)
class Gate:
    """One 16-byte gate of the IDT. `type` is 0xE (interrupt) or 0xF (trap) when usable; `ist` is
    0 or the number 1 to 7 of a stack in the TSS."""

    vector: int
    offset: VirtAddr
    selector: int
    ist: int
    type: int
    dpl: int
    present: bool


@dataclass(frozen=True, slots=True)
class Tss:
    """The 64-bit TSS: stack tops for rings 0 to 2, `ist` the tops of IST1 to IST7."""

    rsp0: VirtAddr
    rsp1: VirtAddr
    rsp2: VirtAddr
    ist: tuple[VirtAddr, ...]
    iomap_base: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A code or data descriptor, or the low half of a system one (`system`)."""

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


@cache
def _gate_layout() -> Struct:
    from construct import (
        BitsInteger,
        BitStruct,
        ByteSwapped,
        Flag,
        Int16ul,
        Int32ul,
        Padding,
        Struct,
    )

    return Struct(
        "offset_low" / Int16ul,
        "selector" / Int16ul,
        "attributes"
        / ByteSwapped(
            BitStruct(
                "present" / Flag,
                "dpl" / BitsInteger(2),
                Padding(1),
                "type" / BitsInteger(4),
                Padding(5),
                "ist" / BitsInteger(3),
            )
        ),
        "offset_middle" / Int16ul,
        "offset_high" / Int32ul,
        Padding(4),
    )


@cache
def _tss_layout() -> Struct:
    from construct import Array, Int16ul, Int64ul, Padding, Struct

    return Struct(
        Padding(4),
        "rsp" / Array(3, Int64ul),
        Padding(8),
        "ist" / Array(7, Int64ul),
        Padding(10),
        "iomap_base" / Int16ul,
    )


@cache
def _segment_layout() -> Struct:
    from construct import BitsInteger, BitStruct, ByteSwapped, Flag, Padding

    return ByteSwapped(
        BitStruct(
            "base_high" / BitsInteger(8),
            "granularity" / Flag,
            "default_big" / Flag,
            "long" / Flag,
            Padding(1),
            "limit_high" / BitsInteger(4),
            "present" / Flag,
            "dpl" / BitsInteger(2),
            "code_or_data" / Flag,
            "type" / BitsInteger(4),
            "base_low" / BitsInteger(24),
            "limit_low" / BitsInteger(16),
        )
    )


def parse_gate(vector: int, raw: bytes) -> Gate:
    """One gate from its 16 bytes."""
    found = _gate_layout().parse(raw)
    bits = found.attributes
    offset = found.offset_low | found.offset_middle << 16 | found.offset_high << 32
    return Gate(
        vector, VirtAddr(offset), found.selector, bits.ist, bits.type, bits.dpl, bits.present
    )


def read_gates(read: ReadVirtual, idtr: DescriptorTable) -> Mapping[int, Gate]:
    """Vector -> present gate. `read(va, length)` raises `ReadError` where the IDT cannot be read;
    so does this when not even its first page can. Gates on a page that is not there are absent."""
    limit = idtr.limit if idtr.limit is not None else VECTORS * GATE_SIZE - 1
    count = min((limit + 1) // GATE_SIZE, VECTORS)
    gates: dict[int, Gate] = {}
    parsed: dict[bytes, Gate] = {}
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
                one = parsed.get(raw) or parsed.setdefault(raw, parse_gate(first + i, raw))
                gates[first + i] = Gate(
                    first + i, one.offset, one.selector, one.ist, one.type, one.dpl, one.present
                )
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
    found = _tss_layout().parse(read(base, TSS_SIZE))
    rsp = [VirtAddr(v) for v in found.rsp]
    return Tss(rsp[0], rsp[1], rsp[2], tuple(VirtAddr(v) for v in found.ist), found.iomap_base)


def parse_segment(selector: int, raw: bytes) -> Segment:
    """A descriptor from its 8 bytes (of a 16-byte system descriptor the low half)."""
    found = _segment_layout().parse(raw)
    limit = found.limit_low | found.limit_high << 16
    return Segment(
        selector,
        found.base_low | found.base_high << 24,
        limit << 12 | 0xFFF if found.granularity else limit,
        found.type,
        not found.code_or_data,
        found.dpl,
        found.present,
        found.long,
        found.default_big,
    )


def read_segment(read: ReadVirtual, gdtr: DescriptorTable, selector: int) -> Segment | None:
    """The descriptor that `selector` names in the GDT, None beyond its limit or for the null
    selector. Raises `ReadError`."""
    index = selector & ~7
    if not index or (gdtr.limit is not None and index + 7 > gdtr.limit):
        return None
    return parse_segment(selector, read(gdtr.base + index, 8))
