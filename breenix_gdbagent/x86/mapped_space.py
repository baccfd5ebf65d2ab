"""Whole address spaces: ranges merged by effective permission, and the tables they use.

Many spaces cost little more than one. What lies below a table is worked out once, however many
entries of however many spaces name it (memoised by table frame and level), and of the top tables
each piece once for each content: a kernel half shared by a thousand spaces is looked at once.
Permissions of 512 entries are read in a few operations on strings of bytes, one byte an
entry; only where the permission changes does Python look at an entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.arch.spaces import Gap as Gap
from breenix_gdbagent.arch.spaces import MappedSpace as MappedSpace
from breenix_gdbagent.arch.spaces import Range as Range
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.x86.paging import (
    ADDRESS,
    LEVEL,
    NX,
    PS,
    RESERVED_BITS,
    UNREADABLE,
    Level,
    P,
    Tables,
    U,
    W,
)

TOO_MANY = "too-many-ranges"
"""Reason of a gap where tables (random bytes, mostly) change permission at every turn."""

MOST_RANGES = 1 << 16
"""Ranges kept below one table, and of one space: no kernel comes near it."""
MOST_STORED = 1 << 20
"""Ranges kept by one `Spaces` below the top tables, about 130 MB at worst."""

# One byte an entry: bit 3 present, bits 2..0 executable, user, writable; bit 6 a large page.
_PRESENT, _ALL, _LARGE = 8, 7, 0x40
_FULL = P | W | U
_Run = tuple[int, int, int]  # first byte, end, code
_Hole = tuple[int, int, str, int]  # first byte, end, reason, level
_Below = tuple[tuple[_Run, ...], tuple[_Hole, ...]]


def _code(low: int, large: bool) -> int:
    if not low & P:
        return 0
    code = _PRESENT | 4 | (2 if low & U else 0) | (1 if low & W else 0)
    return code | _LARGE if large and low & PS else code


_CODES = bytes(_code(low, True) for low in range(256))
_CODES_OF_LAST = bytes(_code(low, False) for low in range(256))
_PRESENTS = bytes(low & P for low in range(256))
_NAMES_TABLE = bytes(low & P and not low & PS for low in range(256))
_KEEP_X = bytes(0xFB if high & 0x80 else 0xFF for high in range(256))
_RIGHTS = [(bool(code & 1), bool(code & 2), not code & 4, "", "") for code in range(16)]
# Where the top table is cut: a program lives in slot 0 with its stack in the last slots of the
# lower half, and what a kernel shares fills the rest, so these pieces recur from space to space.
_CUTS = ((0, 1), (1, 8), (8, 224), (224, 256), (256, 512))


_range = tuple.__new__  # what Range() and Range._make() come to, at a third of the cost
_Piece = tuple[tuple[Range, ...], tuple[Gap, ...]]


class Spaces:
    """The address spaces of one stop; belongs to it as its `Tables` does.

    `levels` and `nxe` as for `paging.walk`. Nothing here raises for what the guest's tables hold:
    loops and self-references end because each step goes down a level.
    """

    def __init__(self, tables: Tables, levels: int = 4, nxe: bool | None = None) -> None:
        self.tables = tables
        self.levels = levels
        self._nx = 0 if nxe is False else NX
        self._looked_at = P | W | U | PS | self._nx
        self._below: dict[int, _Below] = {}
        self._pieces: dict[bytes, _Piece] = {}  # no two pieces have the same length
        self._rest: tuple[bytes, _Piece] = b"", ((), ())
        self._uses: dict[int, frozenset[int]] = {}
        self._stored = 0

    def space(self, root: int) -> MappedSpace:
        """Everything that the top table at `root` maps, merged by effective permission."""
        base = PhysAddr(root & ADDRESS)
        top = LEVEL[self.levels]
        try:
            raw = self.tables.table(base).tobytes()
        except Unreadable:
            half = 1 << top.shift + 8
            low = Gap(VirtAddr(0), VirtAddr(half), UNREADABLE, top.number)
            high = Gap(VirtAddr((1 << 64) - half), VirtAddr(1 << 64), UNREADABLE, top.number)
            return MappedSpace(base, (), (low, high))
        first, below = self._cut(0, raw, top)
        ranges, gaps = [*first], [*below]
        # Mostly as in the root before: comparing costs far less than hashing.
        rest, joined = self._rest
        if raw[8:] != rest:
            joined = self._joined(raw, top)
            self._rest = raw[8:], joined
        _join(ranges, joined[0])
        gaps += joined[1]
        if len(ranges) > MOST_RANGES:
            gaps.append(Gap(ranges[MOST_RANGES].start, ranges[-1].end, TOO_MANY, top.number))
            del ranges[MOST_RANGES:]
        return MappedSpace(base, tuple(ranges), tuple(gaps))

    def _joined(self, raw: bytes, top: Level) -> _Piece:
        """The entries of a top table but the first, piece by piece."""
        ranges, gaps = list[Range](), list[Gap]()
        for number in range(1, len(_CUTS)):
            more, unknown = self._cut(number, raw, top)
            _join(ranges, more)
            gaps += unknown
        return tuple(ranges), tuple(gaps)

    def _cut(self, number: int, raw: bytes, top: Level) -> _Piece:
        first, last = _CUTS[number]
        piece = raw[first * 8 : last * 8]
        found = self._pieces.get(piece)
        if found is None:
            found = self._pieces[piece] = self._piece(first, piece, top)
        return found

    def _piece(self, first: int, piece: bytes, top: Level) -> _Piece:
        """The entries of a top table from index `first` on, as ranges and gaps."""
        runs, holes = self._entries(memoryview(piece).cast("Q"), top, first)
        lift = 0 if first < 256 else (1 << 64) - (1 << top.shift + 9)
        ranges = tuple([_range(Range, (s + lift, e + lift, *_RIGHTS[c])) for s, e, c in runs])
        if not holes:
            return ranges, ()
        gaps = [Gap(VirtAddr(h[0] + lift), VirtAddr(h[1] + lift), *h[2:]) for h in holes]
        return ranges, tuple(gaps)

    def _table(self, key: int) -> _Below:
        """What lies below a table (frame and level in `key`), relative to its first byte."""
        number = key & 0xFFF
        if self._stored > MOST_STORED:
            return (), ((0, 1 << LEVEL[number].shift + 9, TOO_MANY, number),)
        try:
            table = self.tables.table(key)
        except Unreadable:
            return (), ((0, 1 << LEVEL[number].shift + 9, UNREADABLE, number),)
        if number > 1:
            below = self._entries(table, LEVEL[number], 0)
        else:
            below = self._pages(table.tobytes()), ()
        self._stored += len(below[0]) + len(below[1])
        return below

    def _pages(self, raw: bytes) -> tuple[_Run, ...]:
        """The runs of a table of the last level."""
        low, high = raw[0::8], raw[7::8]
        present, codes = low.translate(_PRESENTS), low.translate(_CODES_OF_LAST)
        plain = not self._nx or high.isascii()
        runs: list[_Run] = []
        start = present.find(1)
        while start >= 0:
            rest = codes[start:]
            end = 512 - len(rest.lstrip(rest[:1]))
            if plain or high[start:end].isascii():
                runs.append((start << 12, end << 12, rest[0]))
            else:
                _add_by_nx(runs, high[start:end], start, rest[0])
            start = present.find(1, end)
        return tuple(runs)

    def _codes(self, raw: bytes, codes: bytes) -> bytes:
        """One byte for each entry: whether it is present, and its rights."""
        low = raw[0::8].translate(codes)
        high = raw[7::8]
        if not self._nx or high.isascii():
            return low
        both = int.from_bytes(low, "little") & int.from_bytes(high.translate(_KEEP_X), "little")
        return both.to_bytes(len(low), "little")

    def _entries(self, table: memoryview, level: Level, first: int) -> _Below:
        """The runs and holes of consecutive entries above the last level, from index `first` on."""
        raw = table.tobytes()
        present = raw[0::8].translate(_PRESENTS)
        at = present.find(1)
        if at < 0:
            return (), ()
        if table[at] & self._looked_at == _FULL and present.find(1, at + 1) < 0:
            return self._through(table[at], level, first + at)
        runs: list[_Run] = []
        holes: list[_Hole] = []
        shift = level.shift
        codes = b""
        below_level = level.number - 1
        while at >= 0:
            entry = table[at]
            after = at + 1
            base = first + at << shift
            code = _PRESENT | entry >> 1 & 3 | (0 if entry & self._nx else 4)
            if entry & PS:
                codes = codes or self._codes(raw, _CODES)
                rest = codes[at:]
                after = len(codes) - len(rest.lstrip(rest[:1]))
                _add_large(runs, holes, raw[at * 8 : after * 8], level, first + at, code)
            else:
                key = entry & ADDRESS | below_level
                below = self._below.get(key)
                if below is None:
                    below = self._below[key] = self._table(key)
                if below[0]:
                    _add_below(runs, below[0], base, code)
                for hole in below[1]:
                    _add_hole(holes, base, hole)
                if len(runs) + len(holes) > MOST_RANGES:
                    top = (first + at | 0x1FF) + 1 << shift
                    holes.append((base + (1 << shift), top, TOO_MANY, level.number))
                    break
            at = present.find(1, after)
        return tuple(runs), tuple(holes)

    def _through(self, entry: int, level: Level, index: int) -> _Below:
        """What the only entry of a table leads to, where it takes no right away."""
        key = entry & ADDRESS | level.number - 1
        below = self._below.get(key)
        if below is None:
            below = self._below[key] = self._table(key)
        base = index << level.shift
        runs, holes = below
        if not base:
            return below
        return (
            tuple([(base + start, base + end, code) for start, end, code in runs]),
            tuple([(base + start, base + end, why, on) for start, end, why, on in holes]),
        )

    def tables_of(self, root: int) -> frozenset[tuple[PhysAddr, int]]:
        """(frame, level) of every table that `root` uses, itself included, readable or not."""
        return frozenset((PhysAddr(k & ADDRESS), k & 0xFFF) for k in self._used(root & ADDRESS))

    def table_frames(self, roots: Iterable[int]) -> set[int]:
        """The frames of every table that any of the roots uses, readable or not."""
        used = set[int]().union(*(self._used(root & ADDRESS) for root in roots))
        return {key & ADDRESS for key in used}

    def _used(self, root: int) -> frozenset[int]:
        key = root | self.levels
        return self._uses_below(key) | {key}

    def _uses_below(self, key: int) -> frozenset[int]:
        """Tables that the table `key` (frame and level) leads to, in the same form."""
        found = self._uses.get(key)
        if found is None:
            children = set(_tables_named(self.tables, key & ADDRESS, key & 0xFFF))
            found = frozenset().union(children, *(self._uses_below(c) for c in children))
            self._uses[key] = found
        return found


def _tables_named(tables: Tables, frame: int, level: int) -> Iterator[int]:
    """The tables (frame and level in one number) that the entries of a table name."""
    if level == 1:
        return
    try:
        table = tables.table(frame)
    except Unreadable:
        return
    named = table.tobytes()[0::8].translate(_NAMES_TABLE)
    at = named.find(1)
    while at >= 0:
        yield table[at] & ADDRESS | level - 1
        at = named.find(1, at + 1)


def _add(runs: list[_Run], start: int, end: int, code: int) -> None:
    if runs:
        last = runs[-1]
        if last[1] == start and last[2] == code:
            runs[-1] = (last[0], end, code)
            return
    runs.append((start, end, code))


def _add_by_nx(runs: list[_Run], high: bytes, start: int, code: int) -> None:
    """Adds pages that are alike but for NX, which is bit 7 of their top bytes in `high`."""
    end = start + len(high)
    rest = high.translate(_KEEP_X)
    while rest:
        at = end - len(rest)
        keep = rest[0]
        rest = rest.lstrip(rest[:1])
        runs.append((at << 12, end - len(rest) << 12, code & keep))


def _add_hole(holes: list[_Hole], base: int, hole: _Hole) -> None:
    start, end, reason, level = hole
    if holes and holes[-1][1:] == (base + start, reason, level):
        holes[-1] = (holes[-1][0], base + end, reason, level)
    else:
        holes.append((base + start, base + end, reason, level))


def _add_below(runs: list[_Run], below: tuple[_Run, ...], base: int, code: int) -> None:
    """Adds what a table maps, seen through an entry at `base` with the rights in `code`."""
    if code == _PRESENT | _ALL:
        start, end, own = below[0]
        _add(runs, base + start, base + end, own)
        if len(below) > 1:
            runs += [(base + s, base + e, c) for s, e, c in below[1:]]
        return
    for start, end, own in below:
        _add(runs, base + start, base + end, own & code)


def _add_large(
    runs: list[_Run], holes: list[_Hole], entries: bytes, level: Level, at: int, code: int
) -> None:
    """Adds a run of large pages from index `at` on, those with reserved bits set as holes."""
    shift = level.shift
    count = len(entries) // 8
    if not level.large_page:
        holes.append((at << shift, at + count << shift, RESERVED_BITS, level.number))
        return
    # Bits 13 and up: bytes 1 (but bits 12:8), 2 and, of 1 GiB pages, 3.
    suspect = any(
        entries[byte::8].translate(None, _clear(level.reserved >> 8 * byte & 0xFF))
        for byte in range(1, 4)
    )
    if not suspect:
        _add(runs, at << shift, at + count << shift, code)
        return
    for index in range(count):
        raw = int.from_bytes(entries[index * 8 : index * 8 + 8], "little")
        start = at + index << shift
        end = start + (1 << shift)
        if raw & level.reserved:
            _add_hole(holes, 0, (start, end, RESERVED_BITS, level.number))
        else:
            _add(runs, start, end, code)


_CLEAR = {
    mask: bytes(b for b in range(256) if not b & mask) for mask in (0, 0xE0, 0x1F, 0x3F, 0xFF)
}


def _clear(mask: int) -> bytes:
    """The byte values without any bit of `mask`."""
    return _CLEAR[mask]


def _join(ranges: list[Range], more: tuple[Range, ...]) -> None:
    if ranges and more:
        last, first = ranges[-1], more[0]
        if last.end == first.start and last[2:] == first[2:]:
            ranges[-1] = Range(last.start, first.end, *last[2:])
            ranges += more[1:]
            return
    ranges += more
