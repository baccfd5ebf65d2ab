"""The cases: mappings in page tables of our own, and the control bits they are crossed with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from breenix_gdbagent.x86.paging import LEVEL, NX, PS, P, U, W

PERMISSIVE = P | W | U
RIGHTS = tuple(P | w | u | nx for w, u, nx in product((0, W), (0, U), (0, NX)))
SIZES = {1: "4K", 2: "2M", 3: "1G"}
ABSENT = (0, W | U | NX)  # without P the other bits say nothing
NON_CANONICAL = (0x8000_0000_0000, 0xFFFF_7FFF_FFFF_F000, 1 << 62)
RESERVED = {2: 1 << 13, 3: 1 << 13}  # address bits below the size of a large page (SDM 4.5.4)
KINDS = ("read", "write", "fetch")
RINGS = (0, 3)
FIRST_SLOT = 8  # PML4 slots from here on are ours


@dataclass(frozen=True, slots=True)
class Group:
    """Control bits that hold for all cases of a group; `ac` is EFLAGS.AC of the access."""

    wp: bool = True
    smep: bool = False
    smap: bool = False
    ac: bool = False
    nxe: bool = True

    @property
    def name(self) -> str:
        words = ("WP", "SMEP", "SMAP", "AC", "NXE")
        bits = (self.wp, self.smep, self.smap, self.ac, self.nxe)
        return " ".join(w if b else "-" * len(w) for w, b in zip(words, bits, strict=True))


GROUPS = tuple(Group(*bits) for bits in product((True, False), repeat=5))


@dataclass(frozen=True, slots=True)
class Mapping:
    """One address under test, and how its mapping was made: the entries from the top without
    their addresses; none where the address is not canonical."""

    va: int
    size: str
    entries: tuple[int, ...]

    @property
    def what(self) -> str:
        return f"{self.size} {' '.join(map(_named, self.entries))}".rstrip()


@dataclass(slots=True)
class Builder:
    """Tables in frames from `next_frame` on, under `root`; `page` is the page under test."""

    root: int
    next_frame: int
    page: int
    frames: dict[int, list[int]] = field(default_factory=dict)

    def mappings(self) -> Iterator[Mapping]:
        """Every mapping of the matrix, its tables written on the way: all rights at all levels of
        all sizes of page, no entry at each level, reserved bits, and no canonical address."""
        for number, raw in enumerate(RIGHTS):
            yield from self._below(4, self.root, FIRST_SLOT + number, raw, 0, ())
        slot = FIRST_SLOT + len(RIGHTS)
        for leaf in SIZES:
            for level in range(4, leaf - 1, -1):
                for absent in ABSENT:
                    yield self._one(slot, leaf, level, absent)
                    slot += 1
            if leaf in RESERVED:
                yield self._one(slot, leaf, leaf, PERMISSIVE | RESERVED[leaf])
                slot += 1
        yield self._one(slot, 1, 4, PERMISSIVE | PS)
        for va in NON_CANONICAL:
            yield Mapping(va, "non-canonical", ())

    def _below(
        self, level: int, table: int, index: int, raw: int, va: int, above: tuple[int, ...]
    ) -> Iterator[Mapping]:
        """Entry `index` of `table` with these rights, and every mapping through it: pages of this
        level's size next to tables with pages of each smaller one."""
        va |= index << LEVEL[level].shift
        if level == 1:
            self._leaf(table, index, 1, raw)
            yield Mapping(va, SIZES[1], (*above, raw))
            return
        below = self.new_table()
        self.frames[table][index] = below | raw
        for number, rights in enumerate(RIGHTS):
            yield from self._below(level - 1, below, number, rights, va, (*above, raw))
            if level - 1 in SIZES and level - 1 > 1:
                at = len(RIGHTS) + number
                self._leaf(below, at, level - 1, rights)
                shift = LEVEL[level - 1].shift
                page = va | at << shift | self.page & ((1 << shift) - 1)
                yield Mapping(page, SIZES[level - 1], (*above, raw, rights))

    def _one(self, slot: int, leaf: int, special: int, entry: int) -> Mapping:
        """A mapping with tables of its own: permissive but for one level's entry."""
        table, va, made = self.root, slot << LEVEL[4].shift, []
        for level in range(4, leaf - 1, -1):
            raw = entry if level == special else PERMISSIVE
            index = slot if level == 4 else 0
            made.append(raw)
            if level == leaf:
                self._leaf(table, index, leaf, raw)
                continue
            below = self.new_table()
            self.frames[table][index] = below | raw
            table = below
        return Mapping(va | self.page & ((1 << LEVEL[leaf].shift) - 1), SIZES[leaf], tuple(made))

    def _leaf(self, table: int, index: int, level: int, raw: int) -> None:
        size = 1 << LEVEL[level].shift
        self.frames[table][index] = (self.page & -size) | raw | (PS if level > 1 else 0)

    def new_table(self) -> int:
        """An empty frame."""
        frame, self.next_frame = self.next_frame, self.next_frame + 0x1000
        self.frames[frame] = [0] * 512
        return frame


def _named(raw: int) -> str:
    if not raw & P:
        return "absent"
    rights = "".join(
        (letter if raw & bit else "-") for letter, bit in (("W", W), ("U", U), ("N", NX))
    )
    extra = raw & ~(PERMISSIVE | NX)
    return rights + (f"+{extra:#x}" if extra else "")
