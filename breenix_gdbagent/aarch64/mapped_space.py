"""Whole address spaces of VMSAv8-64: ranges merged by effective permission, and their tables.

What lies below a table is worked out once, however many entries of however many spaces name it
(memoised by frame and level), and the kernel's half once for all spaces. Rights of a table's
entries are read in a few operations on strings of bytes, one byte an entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from breenix_gdbagent.aarch64.paging import (
    DBM,
    EL0,
    NO_EL0_TABLE,
    PXN,
    PXN_TABLE,
    READ_ONLY,
    READ_ONLY_TABLE,
    TABLE,
    UXN,
    UXN_TABLE,
    VALID,
    Shape,
    rights_of,
)
from breenix_gdbagent.aarch64.translation import LAST, Half, Translation
from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr
from breenix_gdbagent.arch.spaces import Gap, MappedSpace, Range
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.arch.walks import RESERVED_BITS, UNREADABLE
from breenix_gdbagent.errors import Unreadable

TOO_MANY = "too-many-ranges"
MOST_RANGES = 1 << 16
MOST_STORED = 1 << 20
"""Ranges kept below tables, of one space and of all."""

# One byte an entry: what a leaf says, or (with `_TABLE`) what a table's entry takes away.
_PRESENT, _EL0, _RO, _PXN, _UXN, _DBM, _BAD, _TABLE = (1 << n for n in range(8))
_LOW = bytes(
    (_PRESENT | (_EL0 if b & EL0 else 0) | (_RO if b & READ_ONLY else 0)) if b & VALID else 0
    for b in range(256)
)
_VALIDS = bytes(0xFF if b & VALID else 0 for b in range(256))
_HIGH = bytes(
    (_PXN if b << 48 & PXN else 0) | (_UXN if b << 48 & UXN else 0) | (_DBM if b << 48 & DBM else 0)
    for b in range(256)
)
_RUNS = re.compile(rb"([^\0])\1*", re.DOTALL)

_Run = tuple[int, int, int]
_Hole = tuple[int, int, str, int]
_Below = tuple[tuple[_Run, ...], tuple[_Hole, ...]]


class Spaces:
    """The address spaces of one stop; belongs to it as its `Tables` does. Nothing here raises for
    what the guest's tables hold: each step goes down a level."""

    def __init__(self, tables: Tables, mode: Translation) -> None:
        self.tables = tables
        self.mode = mode
        self._halves = {0: _Tree(tables, mode.low, mode), 1: _Tree(tables, mode.high, mode)}

    @cached_property
    def _kernel(self) -> tuple[tuple[Range, ...], tuple[Gap, ...]]:
        return self._halves[1].mapped(self.mode.kernel_root)

    def space(self, root: int) -> MappedSpace:
        """Everything that is mapped while `root` is in TTBR0, the kernel's half included."""
        base = self.mode.low.aligned(root)
        ranges, gaps = self._halves[0].mapped(base)
        high, high_gaps = self._kernel
        return MappedSpace(base, ranges + high, gaps + high_gaps)

    def tables_of(self, root: int) -> frozenset[tuple[PhysAddr, int]]:
        """(table, level) of every table in use while `root` is in TTBR0, readable or not."""
        low = self._halves[0].used(self.mode.low.aligned(root))
        return frozenset(low | self._halves[1].used(self.mode.kernel_root))

    def table_frames(self, roots: Iterable[int]) -> set[int]:
        """The frames of every table that any of the roots uses, readable or not."""
        found = set[int]()
        for root in roots:
            for at, level in self.tables_of(root):
                half = self.mode.high if at == self.mode.kernel_root else self.mode.low
                size = max(half.entries(level) * 8, 1)
                found.update(range(at & ~0xFFF, at + size, PAGE))
        return found


class _Tree:
    """The tables of one half."""

    def __init__(self, tables: Tables, half: Half, mode: Translation) -> None:
        self.tables = tables
        self.half = half
        self.shape = Shape.of(half)
        self._below: dict[tuple[int, int], _Below] = {}
        self._used: dict[tuple[int, int], frozenset[tuple[PhysAddr, int]]] = {}
        self._stored = 0
        self._mapped: dict[int, tuple[tuple[Range, ...], tuple[Gap, ...]]] = {}
        self._rights = [_rights(code, mode) for code in range(256)]
        over = max(48 - half.output_bits, 0)
        # Bits of bytes 5 and 4 that an address of this width has clear.
        self._wide = [
            (5, (0xFF << max(8 - over, 0)) & 0xFF),
            (4, (0xFF << max(16 - over, 0)) & 0xFF if over > 8 else 0),
        ]

    def mapped(self, root: PhysAddr) -> tuple[tuple[Range, ...], tuple[Gap, ...]]:
        """All of this half under its top table."""
        found = self._mapped.get(root)
        if found is None:
            found = self._mapped[root] = self._all(root)
        return found

    def _all(self, root: PhysAddr) -> tuple[tuple[Range, ...], tuple[Gap, ...]]:
        half = self.half
        if half.disabled or not half.valid:
            return (), ()
        runs, holes = self._table(root, half.start)
        lift = half.base
        ranges: list[Range] = []
        for start, end, code in runs:
            right = self._rights[code]
            last = ranges[-1] if ranges else None
            if last is not None and last.end == start + lift and last[2:] == right:
                ranges[-1] = last._replace(end=VirtAddr(end + lift))
            else:
                ranges.append(Range(VirtAddr(start + lift), VirtAddr(end + lift), *right))
        gaps = [Gap(VirtAddr(s + lift), VirtAddr(e + lift), why, on) for s, e, why, on in holes]
        if len(ranges) > MOST_RANGES:
            gaps.append(Gap(ranges[MOST_RANGES].start, ranges[-1].end, TOO_MANY, half.start))
            del ranges[MOST_RANGES:]
        return tuple(ranges), tuple(gaps)

    def _table(self, base: int, level: int) -> _Below:
        """What lies below a table, relative to its first byte."""
        key = base, level
        found = self._below.get(key)
        if found is None:
            self._below[key] = (), ()  # one that names itself ends here
            found = self._below[key] = self._entries(base, level)
            self._stored += len(found[0])
        return found

    def _raw(self, base: int, level: int) -> bytes:
        """The bytes of a table. Raises `Unreadable`."""
        size = self.half.entries(level) * 8
        frames = range(base & ~0xFFF, base + size, PAGE)
        raw = b"".join(self.tables.table(frame).tobytes() for frame in frames)
        return raw[base & 0xFFF : (base & 0xFFF) + size]

    def _codes(self, raw: bytes, level: int) -> bytes:
        """One byte an entry; 0 where nothing is."""
        low = raw[0::8]
        code = _number(low.translate(_LOW)) | _number(raw[6::8].translate(_HIGH))
        block = _BAD if level == LAST or not self.half.block_allowed(level) else 0
        table = 0 if level == LAST else _TABLE
        code |= _number(low.translate(_types(block, table)))
        for byte, mask in self._wide:
            if mask:
                code |= _number(raw[byte::8].translate(_types_of(mask)))
        return (code & _number(low.translate(_VALIDS))).to_bytes(len(low), "little")

    def _entries(self, base: int, level: int) -> _Below:
        shift = self.half.shift(level)
        whole = self.half.entries(level) << shift
        if self._stored > MOST_STORED:
            return (), ((0, whole, TOO_MANY, level),)
        try:
            raw = self._raw(base, level)
        except Unreadable:
            return (), ((0, whole, UNREADABLE, level),)
        runs: list[_Run] = []
        holes: list[_Hole] = []
        for match in _RUNS.finditer(self._codes(raw, level)):
            start, end, code = match.start(), match.end(), match[1][0]
            if code & _BAD:
                holes.append((start << shift, end << shift, RESERVED_BITS, level))
            elif code & _TABLE:
                for index in range(start, end):
                    entry = int.from_bytes(raw[index * 8 : index * 8 + 8], "little")
                    self._add_below(runs, holes, entry, index << shift, level)
            else:
                _add(runs, start << shift, end << shift, code)
            if len(runs) + len(holes) > MOST_RANGES:
                holes.append((end << shift, whole, TOO_MANY, level))
                break
        return tuple(runs), tuple(holes)

    def _add_below(
        self, runs: list[_Run], holes: list[_Hole], entry: int, base: int, level: int
    ) -> None:
        below, unknown = self._table(self.shape.address(entry), level + 1)
        takes = 0 if self.half.flat else _taken(entry)
        clear = ~_EL0 if not self.half.flat and entry & NO_EL0_TABLE else ~0
        if entry & READ_ONLY_TABLE and not self.half.flat:
            clear &= ~_DBM
        for start, end, code in below:
            _add(runs, base + start, base + end, (code | takes) & clear)
        holes += [(base + s, base + e, why, on) for s, e, why, on in unknown]

    def used(self, base: int, level: int | None = None) -> frozenset[tuple[PhysAddr, int]]:
        """(table, level) of the table at `base` and of all below it."""
        key = base, self.half.start if level is None else level
        found = self._used.get(key)
        if found is None:
            mine = frozenset({(PhysAddr(base), key[1])})
            self._used[key] = mine
            named = self._named(*key)
            found = self._used[key] = mine.union(*(self.used(*child) for child in named))
        return found

    def _named(self, base: int, level: int) -> Iterator[tuple[int, int]]:
        if level == LAST:
            return
        try:
            raw = self._raw(base, level)
        except Unreadable:
            return
        codes = self._codes(raw, level)
        for index, code in enumerate(codes):
            if code & _TABLE and not code & _BAD:
                entry = int.from_bytes(raw[index * 8 : index * 8 + 8], "little")
                yield self.shape.address(entry), level + 1


def _taken(entry: int) -> int:
    """What an entry of a table forbids all below it."""
    return (
        (_RO if entry & READ_ONLY_TABLE else 0)
        | (_PXN if entry & PXN_TABLE else 0)
        | (_UXN if entry & UXN_TABLE else 0)
    )


def _rights(code: int, mode: Translation) -> tuple[bool, bool, bool, str, str]:
    """The rights that one byte stands for."""
    pairs = ((_EL0, EL0), (_RO, READ_ONLY), (_PXN, PXN), (_UXN, UXN), (_DBM, DBM))
    leaf = sum(bit for ours, bit in pairs if code & ours)
    w, u, nx, el0, el1 = rights_of(leaf, 0, dirty=mode.hardware_dirty, wxn=mode.wxn).effective
    return w, u, nx, el0, el1


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


_BY_TYPE: dict[tuple[int, int], bytes] = {}
_BY_MASK: dict[int, bytes] = {}


def _types(block: int, table: int) -> bytes:
    """Lowest byte of an entry -> what its type adds: bit 1 tells a table (a page) from a block."""
    key = block, table
    if key not in _BY_TYPE:
        _BY_TYPE[key] = bytes(table if b & TABLE else block for b in range(256))
    return _BY_TYPE[key]


def _types_of(mask: int) -> bytes:
    """`_BAD` for the bytes with any bit of `mask`."""
    if mask not in _BY_MASK:
        _BY_MASK[mask] = bytes(_BAD if b & mask else 0 for b in range(256))
    return _BY_MASK[mask]


def _add(runs: list[_Run], start: int, end: int, code: int) -> None:
    if runs:
        last = runs[-1]
        if last[1] == start and last[2] == code:
            runs[-1] = (last[0], end, code)
            return
    runs.append((start, end, code))
