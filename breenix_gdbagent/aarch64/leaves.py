"""Every page and block that a space maps, one by one, and the stretches that they make up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from breenix_gdbagent.aarch64.paging import TABLE, TABLE_RIGHTS, VALID, Shape, malformed
from breenix_gdbagent.aarch64.translation import LAST, Half, Translation
from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr
from breenix_gdbagent.arch.spaces import Stretch
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.errors import Unreadable


class Leaf(NamedTuple):
    """One page or block: the entry of `level` at `entry_pa`, and what the tables above it forbid.
    `size` in bytes."""

    va: VirtAddr
    pa: PhysAddr
    size: int
    level: int
    raw: int
    entry_pa: PhysAddr
    above: int


def leaves(
    tables: Tables, root: int, mode: Translation, *, once: bool = False
) -> Iterator[Leaf]:
    """All that is mapped while `root` is in TTBR0, in order of address, the kernel's half last.
    Tables that cannot be read and malformed entries lead nowhere; `once`: each table is followed
    by the first entry that names it."""
    yield from half_leaves(tables, mode.low.aligned(root), mode.low, once=once)
    yield from half_leaves(tables, mode.kernel_root, mode.high, once=once)


def half_leaves(tables: Tables, root: int, half: Half, *, once: bool = False) -> Iterator[Leaf]:
    """The same of one half."""
    if half.disabled or not half.valid:
        return
    shape = Shape.of(half)
    seen = set[tuple[int, int]]()
    waiting = [(root, half.start, half.base, 0, 0)]
    while waiting:
        base, level, va, above, first = waiting.pop()
        shift = half.shift(level)
        try:
            entries = _entries(tables, base, half.entries(level))
        except Unreadable:
            continue
        for index in range(first, len(entries)):
            raw = entries[index]
            if not raw & VALID or malformed(half, level, raw):
                continue
            target = shape.address(raw)
            at = va + (index << shift)
            if level == LAST or not raw & TABLE:
                size = 1 << shift
                entry = PhysAddr(base + index * 8)
                yield Leaf(VirtAddr(at), PhysAddr(target & -size), size, level, raw, entry, above)
            elif not once or (target, level + 1) not in seen:
                seen.add((target, level + 1))
                waiting.append((base, level, va, above, index + 1))
                waiting.append((target, level + 1, at, above | raw & TABLE_RIGHTS, 0))
                break


def _entries(tables: Tables, base: int, count: int) -> list[int]:
    """The entries of a table. Raises `Unreadable`."""
    found: list[int] = []
    for frame in range(base & ~0xFFF, base + count * 8, PAGE):
        found += tables.table(frame).tolist()
    first = (base & 0xFFF) >> 3
    return found[first : first + count]


def mapped_runs(tables: Tables, root: int, mode: Translation) -> list[Stretch]:
    """(virtual, physical, bytes) of all that is mapped, each table followed once: runs of pages
    first, in order of address, then those of blocks (the direct map)."""
    small: list[Stretch] = []
    large: list[Stretch] = []
    for leaf in leaves(tables, root, mode, once=True):
        runs = small if leaf.level == LAST else large
        if runs:
            va, pa, length = runs[-1]
            if va + length == leaf.va and pa + length == leaf.pa:
                runs[-1] = (va, pa, length + leaf.size)
                continue
        runs.append((leaf.va, leaf.pa, leaf.size))
    return small + large


class NamedTable(NamedTuple):
    """An entry of `level` at `entry_pa` that names the table `target`; `above` are the tables on
    the way to it."""

    va: VirtAddr
    target: PhysAddr
    level: int
    raw: int
    entry_pa: PhysAddr
    above: frozenset[int]


def named_tables(tables: Tables, root: int, half: Half) -> Iterator[NamedTable]:
    """Every entry of a half that names a table, each table followed by the first that names it."""
    if half.disabled or not half.valid:
        return
    shape = Shape.of(half)
    seen = set[tuple[int, int]]()
    waiting = [(root, half.start, half.base, frozenset({root}))]
    while waiting:
        base, level, va, above = waiting.pop()
        try:
            entries = _entries(tables, base, half.entries(level))
        except Unreadable:
            continue
        for index, raw in enumerate(entries if level < LAST else ()):
            if raw & (VALID | TABLE) != VALID | TABLE or malformed(half, level, raw):
                continue
            target = PhysAddr(shape.address(raw))
            at = VirtAddr(va + (index << half.shift(level)))
            yield NamedTable(at, target, level, raw, PhysAddr(base + index * 8), above)
            if (target, level + 1) not in seen and target not in above:
                seen.add((target, level + 1))
                waiting.append((target, level + 1, at, above | {target}))
