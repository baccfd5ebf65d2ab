"""The cases: mappings in page tables of our own, and the accesses that are made to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from breenix_gdbagent.x86.paging import LEVEL, NX, PS, P, U, W

PERMISSIVE = P | W | U
BITS = tuple(product((0, W), (0, U), (0, NX)))
SIZES = {1: "4K", 2: "2M", 3: "1G"}
NON_CANONICAL = (0x8000_0000_0000, 0xFFFF_7FFF_FFFF_F000, 1 << 62)
RESERVED = {2: 1 << 13, 3: 1 << 13}  # address bits below the size of a large page (SDM 4.5.4)
KINDS = ("read", "write", "fetch")
FIRST_SLOT = 8  # PML4 slots from here on are ours
SLOTS = 120


@dataclass(frozen=True, slots=True)
class Group:
    """Control bits that hold for all cases of a group; `ac` is EFLAGS.AC."""

    name: str
    wp: bool = True
    smep: bool = False
    smap: bool = False
    nxe: bool = True
    ac: bool = False


GROUPS = (
    Group("WP, NXE"),
    Group("no WP", wp=False),
    Group("no NXE", nxe=False),
    Group("SMEP", smep=True),
    Group("SMAP, AC 0", smap=True),
    Group("SMAP, AC 1", smap=True, ac=True),
    Group("SMEP and SMAP", smep=True, smap=True),
    Group("SMAP, no WP", smap=True, wp=False),
)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One address under test, and how its mapping was made."""

    va: int
    what: str


@dataclass(slots=True)
class Builder:
    """Tables in frames from `next_frame` on, under `root`; `page` is the page under test."""

    root: int
    next_frame: int
    page: int
    frames: dict[int, list[int]] = field(default_factory=dict)
    slot: int = FIRST_SLOT

    def mappings(self) -> Iterator[Mapping]:
        """Every mapping of the matrix, its tables written on the way."""
        for leaf in SIZES:
            for level in range(4, leaf - 1, -1):
                for bits in BITS:
                    raw = P | bits[0] | bits[1] | bits[2]
                    yield self._one(leaf, {level: raw}, f"{SIZES[leaf]} {_named(level, raw)}")
                yield self._one(leaf, {level: 0}, f"{SIZES[leaf]} not present at {_at(level)}")
            if leaf in RESERVED:
                reserved = {leaf: PERMISSIVE | RESERVED[leaf]}
                yield self._one(leaf, reserved, f"{SIZES[leaf]} reserved address bit")
        yield self._one(1, {4: PERMISSIVE | PS}, "PS at the PML4")
        for va in NON_CANONICAL:
            yield Mapping(va, "non-canonical")

    def _one(self, leaf: int, special: dict[int, int], what: str) -> Mapping:
        """A mapping of its own tables: permissive but for the `special` entries, by level."""
        slot, self.slot = self.slot, self.slot + 1
        table = self.root
        va = slot << LEVEL[4].shift
        for level in range(4, leaf - 1, -1):
            rights = special.get(level, PERMISSIVE)
            index = slot if level == 4 else 0
            if level == leaf:
                size = 1 << LEVEL[leaf].shift
                large = PS if leaf > 1 else 0
                self._set(table, index, (self.page & -size) | rights | large)
                return Mapping(va | self.page & (size - 1), what)
            below = self.new_table()
            self._set(table, index, below | rights)
            table = below
        raise AssertionError("a leaf is always reached")

    def new_table(self) -> int:
        """An empty frame."""
        frame, self.next_frame = self.next_frame, self.next_frame + 0x1000
        self.frames[frame] = [0] * 512
        return frame

    def _set(self, table: int, index: int, raw: int) -> None:
        self.frames[table][index] = raw


def _at(level: int) -> str:
    return f"the {LEVEL[level].name}"


def _named(level: int, raw: int) -> str:
    rights = "".join(
        (letter if raw & bit else "-") for letter, bit in (("W", W), ("U", U), ("N", NX))
    )
    return f"{rights} at {_at(level)}"
