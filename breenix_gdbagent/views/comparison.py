"""Two stops compared: their address spaces, page tables shared for user memory, allocators.

Spaces are paired by name, so that two boots compare: their frames differ everywhere and say
nothing. Of two stops of one run the frames are compared as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import SerialText
from breenix_gdbagent.views.changes import Change, space_changes
from breenix_gdbagent.x86.paging import (
    effective_of,
    index_at,
    present,
    same_target,
    slot_start,
    span,
    table_named,
)

MOST_PAGES = 40_000
"""Pages whose frames are compared, of one pair of spaces."""


@dataclass(frozen=True, slots=True)
class OtherFrames:
    """[start, end) lies on other frames than before: its first page at `before`, then at
    `after`."""

    start: int
    end: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class PairedSpaces:
    """A space that both stops have. What changed in the master as well is told there alone."""

    before: Space
    after: Space
    changes: tuple[Change, ...]
    frames: tuple[OtherFrames, ...]


@dataclass(frozen=True, slots=True)
class SharedTable:
    """A table of user memory that spaces share, named by `slot` of their top tables, in one of the
    two stops alone."""

    slot: int
    start: int
    spaces: tuple[str, ...]
    only_in: Literal["a", "b"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`before` and `after` of two stops; `same_run`: both are of one boot. `amounts` are what the
    allocators handed out, by name, without those that cannot be read."""

    same_run: bool
    new: tuple[Space, ...]
    gone: tuple[Space, ...]
    paired: tuple[PairedSpaces, ...]
    sharing: tuple[SharedTable, ...]
    amounts: tuple[dict[str, int | None], dict[str, int | None]]
    serial: tuple[SerialText, SerialText]


def compare_stops(before: Kernel, after: Kernel) -> Comparison:
    """What differs between two stops. Raises `ReadError`."""
    same_run = _same_run(before, after)
    both = list(paired(before, after))
    return Comparison(
        same_run,
        tuple(b for a, b in both if a is None and b is not None),
        tuple(a for a, b in both if a is not None and b is None),
        tuple(_pairs(before, after, same_run)),
        tuple(_sharing(before, after)),
        (_amounts(before), _amounts(after)),
        (before.stop.serial, after.stop.serial),
    )


def _same_run(first: Kernel, second: Kernel) -> bool:
    """Whether both are of one boot: the same master, and one serial text begins the other."""
    if first.reference_root != second.reference_root:
        return False
    ports = first.stop.serial.ports
    if not ports or ports != second.stop.serial.ports:
        return False
    for port in ports:
        one, other = first.stop.serial.port(port), second.stop.serial.port(port)
        if not (one.startswith(other) or other.startswith(one)):
            return False
    return True


def paired(before: Kernel, after: Kernel) -> Iterator[tuple[Space | None, Space | None]]:
    """Spaces of both stops by what they are called: master with master, processes by name, those
    of one name in the order of their pids, nameless ones by their root."""
    first, second = _by_name(before), _by_name(after)
    for key in sorted(first.keys() | second.keys()):
        yield first.get(key), second.get(key)


def _by_name(kernel: Kernel) -> dict[tuple[str, str, int], Space]:
    found: dict[tuple[str, str, int], Space] = {}
    for space in sorted(kernel.audited, key=lambda s: (s.pid or 0, s.root)):
        name = space.name or ("" if space.role == "master" else hex64(space.root))
        number = 0
        while (space.role, name, number) in found:
            number += 1
        found[space.role, name, number] = space
    return found


def _pairs(before: Kernel, after: Kernel, same_run: bool) -> Iterator[PairedSpaces]:
    both = [(a, b) for a, b in paired(before, after) if a is not None and b is not None]
    # What changed in the master is said there, and not again in each process that shares it.
    both.sort(key=lambda pair: pair[0].role != "master")
    common: set[object] = set()
    for a, b in both:
        found = space_changes(before.merged.space(a.root), after.merged.space(b.root))
        mine = tuple(c for c in found if _key(c) not in common)
        if a.role == "master":
            common = {_key(c) for c in found}
        yield PairedSpaces(a, b, mine, tuple(_frames(before, a, after, b)) if same_run else ())


def _key(change: Change) -> object:
    sides = (change.before, change.after)
    return change.start, change.end, *(None if one is None else one[2:] for one in sides)


def _frames(first: Kernel, a: Space, second: Kernel, b: Space) -> list[OtherFrames]:
    """Pages that lie on other frames than before, neighbours together. What a process shares
    with the master is looked at in the master alone."""
    found: list[OtherFrames] = []
    looked = 0
    own = _own_slots(first, a) | _own_slots(second, b)
    for one in first.merged.space(a.root).ranges:
        va = int(one.start)
        while va < one.end and looked < MOST_PAGES:
            if index_at(va, first.levels) not in own:
                va = (va | span(first.levels) - 1) + 1
                continue
            looked += 1
            here, there = first.walk(a.root, va), second.walk(b.root, va)
            step = min(here.size or 4096, there.size or 4096)
            if here.pa is not None and there.pa is not None and here.pa != there.pa:
                last = found[-1] if found else None
                if last is not None and last.end == va:
                    found[-1] = OtherFrames(last.start, va + step, last.before, last.after)
                else:
                    found.append(OtherFrames(va, va + step, here.pa, there.pa))
            va += step
    return found


def _own_slots(kernel: Kernel, space: Space) -> set[int]:
    """Top slots that `space` does not have from the master; of the master itself, of slots that
    name one table the first."""
    table = kernel.tables.table(space.root).tolist()
    if kernel.master is None:
        return set(range(512))
    if space.root == kernel.master.root:
        return {n for n, raw in enumerate(table) if present(raw) and raw not in table[:n]}
    model = kernel.tables.table(kernel.master.root).tolist()
    return {n for n, raw in enumerate(table) if not same_target(raw, model[n])}


def _sharing(before: Kernel, after: Kernel) -> Iterator[SharedTable]:
    """Tables of user memory that two spaces share in one stop and not in the other."""
    first, second = _shared(before), _shared(after)
    for slot, names in sorted(first - second):
        yield SharedTable(slot, slot_start(slot), names, "a")
    for slot, names in sorted(second - first):
        yield SharedTable(slot, slot_start(slot), names, "b")


def _shared(kernel: Kernel) -> set[tuple[int, tuple[str, ...]]]:
    """(lower top-level slot, names of the spaces whose user-accessible entries are one table)."""
    found: set[tuple[int, tuple[str, ...]]] = set()
    widths = span(kernel.levels) // span(4)  # slots are counted as those of 4-level paging
    holders: dict[tuple[int, int], list[str]] = {}
    for space in kernel.audited:
        try:
            table = kernel.tables.table(space.root)
        except ReadError:
            continue
        for slot in range(256):
            below = table_named(kernel.levels, table[slot])
            if below is not None and effective_of(table[slot]).u:
                holders.setdefault((slot * widths, below), []).append(space.subject)
    for (slot, _), names in holders.items():
        if len(names) > 1:
            found.add((slot, tuple(sorted(names))))
    return found


def _amounts(kernel: Kernel) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    try:
        found["frames in use"] = kernel.structures.frames.used
        found["bytes of heap in use"] = kernel.structures.heap.used
        processes = kernel.structures.processes.processes
        found["live processes"] = sum(1 for p in processes if p.alive)
    except (ReadError, NotChecked):
        pass
    found["kernel stack slots"] = len(kernel.stacks) if kernel.is_breenix else None
    return found
