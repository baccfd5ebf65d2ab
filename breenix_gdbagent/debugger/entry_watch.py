"""The page-table entries that map one address, watched: who changes them, and how.

A watchpoint is on a virtual address, so each entry is watched through every mapping of its table
that is known when armed. What it cannot see is told apart at each stop: the accessed and dirty bits
that the page walker sets by itself (SDM volume 3, 4.8), and writes through addresses that were not
mapped when armed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PhysAddr, hex64, sign_extended
from breenix_gdbagent.arch.walks import Entry
from breenix_gdbagent.debugger.points import Point, Watched
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.control import CR0_WP, CR3_ADDRESS
from breenix_gdbagent.x86.paging import LEVEL, A, D, entry_flags, entry_index, present, span
from breenix_gdbagent.x86.reverse import FrameIndex

if TYPE_CHECKING:
    from breenix_gdbagent.debugger.point_table import PointTable
    from breenix_gdbagent.live import LiveVm
    from breenix_gdbagent.stop import Stop

MOST_ALIASES = 16
WALKERS = A | D
UNSEEN = (
    "not seen by watchpoints: accessed and dirty bits set by the page walker; writes through an "
    "address that does not map the table now"
)


@dataclass(frozen=True, slots=True)
class WatchedEntry:
    """One entry on the way: where it lies, what it held, and the addresses it is watched at.
    `more` mappings of its table were left out."""

    entry: Entry
    aliases: tuple[int, ...]
    more: int = 0


@dataclass(slots=True)
class EntryWatch:
    """The entries of one address of one space. `process` is a pid or name, None for a bare root."""

    point: Point
    va: int
    root: PhysAddr
    process: str | None
    label: str
    entries: tuple[WatchedEntry, ...] = ()
    seen: dict[int, int] = field(default_factory=dict)

    def arm(self, vm: LiveVm, table: PointTable, placed: Callable[[Stop], Stop]) -> list[str]:
        """Walk again and watch what is on the way now; what has changed since, in sentences."""
        kernel = Kernel(placed(vm.stop()))
        notes = []
        root = self._root_now(kernel)
        if root is not None and root != self.root:
            notes.append(f"{self.label} has another root now: {hex64(root)}")
            self.root = root
        walked = kernel.walk(self.root, self.va)
        if tuple(e.entry_pa for e in walked.entries) != tuple(
            e.entry.entry_pa for e in self.entries
        ):
            self.entries = tuple(watched_entries(kernel, walked.entries))
            self.point.watched = tuple(
                Watched(f"level {one.entry.level} entry", alias, 8)
                for one in self.entries
                for alias in one.aliases
            )
        self.seen = {e.entry_pa: e.raw for e in walked.entries}
        table.place(self.point)
        return notes

    def _root_now(self, kernel: Kernel) -> PhysAddr | None:
        if self.process is None:
            return None
        found = [s for s in kernel.named_spaces if self.process in (str(s.pid), s.name)]
        return found[0].root if len(found) == 1 else None

    def look(self, evaluation: Evaluation, watched: tuple[str, int] | None) -> list[str]:
        """What a write that was seen has changed, in sentences; [] when nothing but what the
        walker changes too. `watched` is the kind and address of the watchpoint."""
        notes = self._changes(evaluation)
        if notes and watched is not None:
            notes.append(f"written through {hex64(watched[1])}")
        return notes

    def unseen(self, evaluation: Evaluation) -> list[str]:
        """What has changed without a watchpoint's telling, in sentences."""
        notes = [f"not seen by a watchpoint: {note}" for note in self._changes(evaluation)]
        for pa, before in list(self.seen.items()):
            now = self._read(evaluation, pa)
            if now is not None and now != before:
                names = entry_flags(self._level(pa), now ^ before)
                notes.append(
                    f"the walker changed {' and '.join(names)} of the level {self._level(pa)} "
                    "entry (watchpoints do not see that)"
                )
                self.seen[pa] = now
        return notes

    def _changes(self, evaluation: Evaluation) -> list[str]:
        notes = []
        for pa, before in list(self.seen.items()):
            now = self._read(evaluation, pa)
            if now is None or (now ^ before) & ~WALKERS == 0:
                continue
            self.seen[pa] = now
            notes.append(
                f"level {self._level(pa)} ({LEVEL[self._level(pa)].name}) entry of "
                f"{hex64(self.va)} in {self.label} at {hex64(pa)}: "
                f"{entry_text(self._level(pa), before)} -> {entry_text(self._level(pa), now)}"
            )
        return notes

    def _level(self, pa: int) -> int:
        return next((e.entry.level for e in self.entries if e.entry.entry_pa == pa), 1)

    @staticmethod
    def _read(evaluation: Evaluation, pa: int) -> int | None:
        try:
            return int.from_bytes(evaluation.kernel.stop.memory.read(PhysAddr(pa), 8), "little")
        except ReadError:
            return None


def entry_text(level: int, raw: int) -> str:
    """An entry with its flags."""
    if not present(raw):
        return f"{hex64(raw)} (not present)"
    return f"{hex64(raw)} ({' '.join(entry_flags(level, raw))})"


def watched_entries(kernel: Kernel, entries: tuple[Entry, ...]) -> Iterator[WatchedEntry]:
    """Each entry with the writable mappings of its table: of every space, each address once."""
    index = FrameIndex(kernel.tables, [s.root for s in kernel.spaces], kernel.levels, kernel.nxe)
    cr0 = kernel.stop.cpu.get("cr0")
    guarded = cr0 is None or bool(cr0 & CR0_WP)
    for entry in entries:
        leaves = {
            (m.entry_pa, m.level)
            for m in index.who(entry.entry_pa).mappings
            if m.effective.w or not guarded
        }
        found: dict[int, None] = {}
        for leaf, level in sorted(leaves):
            offset = entry.entry_pa & span(level) - 1
            for base in addresses(index, leaf, level):
                found[sign_extended(base | offset, index.levels)] = None
        every = sorted(found)
        yield WatchedEntry(entry, tuple(every[:MOST_ALIASES]), max(0, len(every) - MOST_ALIASES))


def addresses(index: FrameIndex, entry_pa: int, level: int) -> Iterator[int]:
    """Every address that is translated through an entry: all ways from all roots."""
    at = entry_index(entry_pa) * span(level)
    frame = entry_pa & CR3_ADDRESS
    if level == index.levels:
        if frame in index.roots:
            yield at
        return
    for parent in index.parents_of(frame, level):
        for base in addresses(index, parent, level + 1):
            yield base | at


def find_root(kernel: Kernel, process: str) -> tuple[PhysAddr, str]:
    """(root, how it is called) of a process by pid or name. Raises `InputError`."""
    found = [s for s in kernel.spaces if process in (str(s.pid), s.name) and s.live is not False]
    if len(found) != 1:
        names = ", ".join(s.label for s in kernel.spaces if s.role == "process") or "none yet"
        raise InputError(
            f"{process!r} is {'no' if not found else 'more than one'} process",
            f"there are: {names}",
        )
    return found[0].root, found[0].label
