"""Page tables made by a test, and the naive model that judges what is read from them.

The model knows nothing of `breenix_gdbagent.x86`: it restates SDM vol. 3, 4.5 in the plainest way,
one entry at a time, without any cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.writers.memory import FrameMemory

P, W, U, PS, G, NX = 1, 2, 4, 0x80, 0x100, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
SHIFT = {1: 12, 2: 21, 3: 30, 4: 39, 5: 48}


@dataclass
class TableWriter:
    """Builds address spaces frame by frame; tables are taken from `next_frame` upwards."""

    levels: int = 4
    next_frame: int = 0x100000
    frames: dict[int, bytearray] = field(default_factory=dict)

    def new_table(self) -> int:
        """An empty table frame; its physical address."""
        pa = self.next_frame
        self.next_frame += 0x1000
        self.frames[pa] = bytearray(0x1000)
        return pa

    def entry(self, table: int, index: int) -> int:
        return int.from_bytes(self.frames[table][index * 8 : index * 8 + 8], "little")

    def set(self, table: int, index: int, raw: int) -> None:
        """Writes one entry as it is."""
        self.frames[table][index * 8 : index * 8 + 8] = raw.to_bytes(8, "little")

    def map(
        self, root: int, va: int, pa: int, flags: int = P | W, level: int = 1, way: int = P | W | U
    ) -> None:
        """Maps one page (of `level` 1, 2 or 3) at `va`; tables on the way get the `way` bits."""
        table = root
        for number in range(self.levels, level, -1):
            index = va >> SHIFT[number] & 511
            raw = self.entry(table, index)
            if not raw & P:
                raw = self.new_table() | way
                self.set(table, index, raw)
            table = raw & ADDRESS
        self.set(table, va >> SHIFT[level] & 511, pa | flags | (PS if level > 1 else 0))

    def memory(self) -> FrameMemory:
        return FrameMemory(self.frames)


@dataclass(frozen=True)
class Leaf:
    """One page as the model sees it."""

    va: int
    size: int
    pa: int
    w: bool
    u: bool
    nx: bool
    entry_pa: int


def sign(va: int, levels: int) -> int:
    bits = 48 if levels == 4 else 57
    return va | (((1 << 64) - 1) ^ ((1 << bits) - 1)) if va >> (bits - 1) & 1 else va


def model_leaves(frames: dict[int, bytearray], root: int, levels: int = 4) -> Iterator[Leaf]:
    """Every page that `root` maps, in order of address; tables that are not there map nothing."""

    def visit(table: int, level: int, base: int, w: bool, u: bool, nx: bool) -> Iterator[Leaf]:
        frame = frames.get(table)
        if frame is None:
            return
        for index in range(512):
            raw = int.from_bytes(frame[index * 8 : index * 8 + 8], "little")
            if not raw & P:
                continue
            va = base | index << SHIFT[level]
            rights = (w and bool(raw & W), u and bool(raw & U), nx or bool(raw & NX))
            if level == 1 or (raw & PS and level <= 3):
                size = 1 << SHIFT[level]
                if level > 1 and raw & ADDRESS & (size - 1) & ~(1 << 12):
                    continue
                pa = raw & ADDRESS & ~(size - 1)
                yield Leaf(sign(va, levels), size, pa, *rights, table + index * 8)
            elif not raw & PS:
                yield from visit(raw & ADDRESS, level - 1, va, *rights)

    yield from visit(root, levels, 0, True, True, False)


def model_lookup(
    frames: dict[int, bytearray], root: int, va: int, levels: int = 4
) -> tuple[list[int], str, int | None]:
    """(entries met, why the walk ended, level where): ``mapped`` with the level of the leaf."""
    top = 47 if levels == 4 else 56
    if len({va >> bit & 1 for bit in range(top, 64)}) != 1:
        return [], "non-canonical", None
    table, seen = root, []
    for level in range(levels, 0, -1):
        if table not in frames:
            return seen, "unreadable", level
        index = va >> SHIFT[level] & 511
        raw = int.from_bytes(frames[table][index * 8 : index * 8 + 8], "little")
        seen.append(raw)
        if not raw & P:
            return seen, "not-present", level
        if level == 1:
            return seen, "mapped", 1
        if raw & PS:
            if level >= 4:
                return seen, "reserved-bits", level
            below = range(13, SHIFT[level])
            if any(raw >> bit & 1 for bit in below):
                return seen, "reserved-bits", level
            return seen, "mapped", level
        table = raw & ADDRESS
    raise AssertionError("level 1 always ends the walk")
