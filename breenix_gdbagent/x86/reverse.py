"""From a physical frame back to everything that maps it, over many address spaces at once.

Every distinct table is read once and its entries are noted by what they name; a question then
climbs from the entry to the roots. The 253 top-level slots of Breenix that name one table do not
become 253 answers: ways through the same tables with the same permission are one, with a count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from breenix_gdbagent.addresses import PhysAddr, VirtAddr, sign_extended
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.x86.paging import (
    ADDRESS,
    LEVEL,
    NX,
    PS,
    Effective,
    P,
    Tables,
    U,
    W,
)

_PRESENT = bytes(low & P for low in range(256))
_RIGHTS = W | U | NX


@dataclass(frozen=True, slots=True)
class Mapping:
    """One way in which `root` maps a frame.

    `va` is the lowest address of the byte asked for, `aliases` how many addresses of this root
    reach it by the same leaf with the same `effective` permission (1: only `va`). The leaf is at
    `entry_pa`, of `level`, and maps `size` bytes.
    """

    root: PhysAddr
    va: VirtAddr
    size: int
    effective: Effective
    entry_pa: PhysAddr
    level: int
    aliases: int


@dataclass(frozen=True, slots=True)
class TableUse:
    """A frame as a page table of `root`: of `level`, for the addresses from `va` on.

    `entry_pa` is the entry that names it (None: it is the root itself); `aliases` as for `Mapping`.
    """

    root: PhysAddr
    level: int
    va: VirtAddr
    entry_pa: PhysAddr | None
    aliases: int


@dataclass(frozen=True, slots=True)
class Who:
    """Everything that the roots of an index do with one physical address."""

    pa: PhysAddr
    mappings: tuple[Mapping, ...]
    tables: tuple[TableUse, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf entry, of whichever spaces: it is at `entry_pa` and maps `size` bytes at `pa`."""

    pa: PhysAddr
    size: int
    entry_pa: PhysAddr
    level: int
    raw: int


@dataclass(slots=True)
class _Way:
    """Ways from one root down to a table: the lowest address it serves, and how many there are."""

    va: int
    count: int


_K = TypeVar("_K")
_Reach = dict[tuple[int, int], _Way]  # by (root, rights: W and U by AND, NX inverted)


class FrameIndex:
    """What the tables of `roots` do with each frame. Belongs to one stop.

    Built once, in time proportional to the distinct tables. Tables that loop or name themselves
    are indexed at each level at which they are used.
    """

    def __init__(
        self, tables: Tables, roots: Iterable[int], levels: int = 4, nxe: bool | None = None
    ) -> None:
        self.tables = tables
        self.levels = levels
        self.roots = tuple(dict.fromkeys(PhysAddr(r & ADDRESS) for r in roots))
        self._tops = frozenset(self.roots)
        self._nx = NX if nxe is not False else 0
        self._leaves: dict[int, dict[int, list[int]]] = {1: {}, 2: {}, 3: {}}
        self._parents: dict[int, list[int]] = {}
        self._reached: dict[int, _Reach] = {}
        missing: list[tuple[PhysAddr, int]] = []
        todo = [root | levels for root in self.roots]
        for key in todo:
            self._parents.setdefault(key, [])
        while todo:
            key = todo.pop()
            try:
                self._read(key, todo)
            except Unreadable:
                missing.append((PhysAddr(key & ADDRESS), key & 0xFFF))
        self.unreadable = tuple(sorted(missing))
        """(frame, level) of tables that are named but in no memory we have."""

    def _read(self, key: int, todo: list[int]) -> None:
        frame, number = key & ADDRESS, key & 0xFFF
        level = LEVEL[number]
        table = self.tables.table(frame)
        leaves = self._leaves.get(number)
        rest = table.tobytes()[0::8].translate(_PRESENT)
        while rest := rest.lstrip(b"\0"):
            at = 512 - len(rest)
            rest = rest.lstrip(b"\1")
            for index in range(at, 512 - len(rest)):
                raw = table[index]
                entry_pa = frame + index * 8
                if leaves is not None and (number == 1 or raw & PS):
                    if raw & level.reserved:
                        continue
                    page = (raw & ADDRESS) >> level.shift
                    known = leaves.get(page)
                    if known is None:
                        leaves[page] = [entry_pa]
                    else:
                        known.append(entry_pa)
                elif not raw & PS:
                    child = raw & ADDRESS | number - 1
                    parents = self._parents.get(child)
                    if parents is None:
                        self._parents[child] = [entry_pa]
                        todo.append(child)
                    else:
                        parents.append(entry_pa)

    def who(self, pa: int) -> Who:
        """Every mapping of the byte at `pa`, and every use of its frame as a page table.

        In order of root, then address. Empty where no root of the index knows the frame.
        """
        mappings: list[Mapping] = []
        for number, leaves in self._leaves.items():
            for entry_pa in leaves.get(pa >> LEVEL[number].shift, ()):
                mappings += self.mappings_through(PhysAddr(entry_pa), number, pa)
        frame = pa & ADDRESS
        uses: list[TableUse] = []
        for number in range(self.levels, 0, -1):
            if frame | number in self._parents:
                uses += self._uses(frame, number)
        mappings.sort(key=lambda m: (m.root, m.va))
        return Who(PhysAddr(pa), tuple(mappings), tuple(uses))

    def mappings_through(
        self, entry_pa: PhysAddr, level: int, pa: int | None = None
    ) -> list[Mapping]:
        """The mappings that the leaf at `entry_pa` makes; of the byte at `pa`, or its first."""
        shift = LEVEL[level].shift
        raw = self.tables.table(entry_pa)[(entry_pa & 0xFFF) >> 3]
        offset = ((entry_pa & 0xFFF) >> 3) << shift
        offset += 0 if pa is None else pa & (1 << shift) - 1
        granted = self._granted(raw)
        ways: _Reach = {}
        for (root, rights), way in self._reach(entry_pa & ADDRESS | level).items():
            _add(ways, (root, rights & granted), way.va + offset, way.count)
        return [
            Mapping(
                root=PhysAddr(root),
                va=sign_extended(way.va, self.levels),
                size=1 << shift,
                effective=Effective(bool(rights & W), bool(rights & U), not rights & NX),
                entry_pa=entry_pa,
                level=level,
                aliases=way.count,
            )
            for (root, rights), way in ways.items()
        ]

    def _uses(self, frame: int, number: int) -> Iterator[TableUse]:
        by_root: dict[int, _Way] = {}
        for (root, _), way in self._reach(frame | number).items():
            _add(by_root, root, way.va, way.count)
        for root, way in sorted(by_root.items()):
            va = sign_extended(way.va, self.levels)
            entry_pa = self._entry_above(root, va, number)
            yield TableUse(PhysAddr(root), number, va, entry_pa, way.count)

    def _entry_above(self, root: int, va: int, number: int) -> PhysAddr | None:
        """The entry of the walk of `va` that names the table of level `number`."""
        base = root
        entry_pa = None
        for level in range(self.levels, number, -1):
            index = va >> LEVEL[level].shift & 0x1FF
            entry_pa = PhysAddr(base + index * 8)
            base = self.tables.table(base)[index] & ADDRESS
        return entry_pa

    def roots_of(self, frame: int, level: int) -> tuple[PhysAddr, ...]:
        """The roots under which the frame is a table of `level`, in order."""
        if frame | level not in self._parents:
            return ()
        return tuple(sorted({PhysAddr(root) for root, _ in self._reach(frame | level)}))

    def parents_of(self, frame: int, level: int) -> tuple[PhysAddr, ...]:
        """The entries, of all spaces, that name the frame as a table of `level`."""
        return tuple(PhysAddr(p) for p in self._parents.get(frame | level, ()))

    def tables_used(self) -> dict[PhysAddr, tuple[int, ...]]:
        """Every frame in use as a table, and at which levels (more than one is wrong)."""
        levels: dict[PhysAddr, tuple[int, ...]] = {}
        for key in self._parents:
            frame = PhysAddr(key & ADDRESS)
            levels[frame] = (*levels.get(frame, ()), key & 0xFFF)
        return levels

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf entry of every distinct table, by level and page."""
        for number, leaves in self._leaves.items():
            shift = LEVEL[number].shift
            for page, entries in leaves.items():
                for entry_pa in entries:
                    raw = self.tables.table(entry_pa)[(entry_pa & 0xFFF) >> 3]
                    pa = PhysAddr(page << shift)
                    yield Leaf(pa, 1 << shift, PhysAddr(entry_pa), number, raw)

    def _granted(self, raw: int) -> int:
        """The rights an entry grants, in a form that levels combine by AND."""
        return raw & _RIGHTS ^ NX if self._nx else raw & (W | U) | NX

    def _reach(self, key: int) -> _Reach:
        """From which roots, where and with which rights one comes to a table."""
        found = self._reached.get(key)
        if found is not None:
            return found
        reach: _Reach = {}
        frame, number = key & ADDRESS, key & 0xFFF
        if number == self.levels:
            if frame in self._tops:
                reach[frame, _RIGHTS] = _Way(0, 1)
        else:
            shift = LEVEL[number + 1].shift
            for entry_pa in self._parents[key]:
                index = (entry_pa & 0xFFF) >> 3
                granted = self._granted(self.tables.table(entry_pa)[index])
                for (root, rights), way in self._reach(entry_pa & ADDRESS | number + 1).items():
                    _add(reach, (root, rights & granted), way.va | index << shift, way.count)
        self._reached[key] = reach
        return reach


def _add(ways: dict[_K, _Way], key: _K, va: int, count: int) -> None:
    known = ways.get(key)
    if known is None:
        ways[key] = _Way(va, count)
    else:
        known.va = min(known.va, va)
        known.count += count
