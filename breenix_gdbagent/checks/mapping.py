"""`Page already mapped`: what stands in the way of mapping an address, and who shares it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.addresses import Hex, PhysAddr, VirtAddr
from breenix_gdbagent.arch.walks import Entry, Walk
from breenix_gdbagent.checks.facts import ASIDE, SHORT, SPREAD, Facts
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare, place_of
from breenix_gdbagent.checks.reasons import State
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel

ALREADY_MAPPED = declare(
    "map.already-mapped",
    "error",
    "a page was to be mapped where one is mapped already",
    arises="The address is taken in this space (a second map of the same page), or a table on the "
    "way is shared with another space that mapped there first.",
    confirm="pt walk VA under each root: the topmost table that two walks have in common.",
    mend="If a table is shared that should not be, give the process its own; else choose another "
    "address, or unmap first.",
)

# kernel/src/memory/process_memory.rs, both eras: map_page and map_user_stack_to_process. The last
# is the x86_64 crate's MapToError in a panic of unwrap().
_NUMBER = r"(0x[0-9a-f]+)"
_SAID = (
    re.compile(
        rf"[Pp]age {_NUMBER} already mapped to different frame {_NUMBER} \(wanted {_NUMBER}\)"
    ),
    re.compile(
        rf"[Pp]age {_NUMBER} already mapped to different frame: expected {_NUMBER}, found {_NUMBER}"
    ),
)
_FRAME_ONLY = (
    re.compile(rf"map_to failed: Page already mapped to frame {_NUMBER}"),
    re.compile(rf"PageAlreadyMapped\(PhysFrame\[4KiB\]\({_NUMBER}\)\)"),
)
MOST_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Said:
    """The kernel's own message: where it wanted to map, what is there, what it wanted."""

    text: str
    va: VirtAddr | None
    has: PhysAddr
    wanted: PhysAddr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRow(Facts):
    """One entry on the way, and the first spaces that have it too."""

    level: int
    entry_pa: PhysAddr
    entry: Hex
    shared_by: Annotated[tuple[Space, ...], SHORT]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way(Facts):
    """The spaces that map the address to that frame, and the way there in one of them."""

    holders: tuple[Space, ...]
    levels: tuple[LevelRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyFacts(Facts):
    """The kernel's message, and what the tables say of the address that it names; `way` is None
    where it names none, or no space can be meant."""

    message: str
    va: VirtAddr | None
    has: PhysAddr
    wanted: PhysAddr | None
    way: Annotated[Way | None, SPREAD] = None
    symbol: Annotated[str | None, ASIDE] = None


@dataclass(frozen=True, slots=True)
class Level:
    """One entry on the way to an address, and the audited spaces whose walk has it in common."""

    entry: Entry
    shared_by: tuple[Space, ...]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in the way of mapping `va` under `space`: the walk, level by level.

    `taken` says whether a page is mapped there; where not, a map would put tables below the last
    entry, for all spaces that share it.
    """

    va: VirtAddr
    space: Space
    walk: Walk
    levels: tuple[Level, ...]

    @property
    def taken(self) -> bool:
        return self.walk.mapped

    @property
    def shared_from(self) -> Level | None:
        """The topmost table that other spaces share: what is mapped below it is mapped for all."""
        return next((level for level in self.levels if level.shared_by), None)


def obstacle(kernel: Kernel, va: int, space: Space) -> Obstacle:
    """What is in the way of mapping `va` in one space, and who else shares each table."""
    walk = kernel.walk(space.root, va)
    others = [s for s in kernel.audited if s is not space]
    walks = {s.root: {e.entry_pa for e in kernel.walk(s.root, va).entries} for s in others}
    levels = tuple(
        Level(entry, tuple(s for s in others if entry.entry_pa in walks[s.root]))
        for entry in walk.entries
    )
    return Obstacle(VirtAddr(va), space, walk, levels)


def check(kernel: Kernel) -> Iterator[Finding]:
    """The kernel's own messages that a page is mapped already, explained from the tables."""
    found = said_so([*kernel.stop.serial.lines(), kernel.panic_message or ""])
    if not kernel.stop.serial.chunks and not found:
        raise NotChecked(State.NO_SERIAL_TEXT)
    for said in found[:MOST_SHOWN]:
        yield _finding(kernel, said)


def said_so(texts: Sequence[str]) -> list[Said]:
    """The messages in some lines of text, each address once."""
    found: dict[tuple[int | None, int], Said] = {}
    for text in texts:
        said = _parse(text)
        if said is not None:
            found.setdefault((said.va, said.has), said)
    # map_page logs both forms for one failure: the one without an address tells nothing new.
    exact = {said.has for said in found.values() if said.va is not None}
    return [s for s in found.values() if s.va is not None or s.has not in exact]


def _parse(text: str) -> Said | None:
    if "lready" not in text:
        return None
    if match := _SAID[0].search(text):
        va, has, wanted = (int(number, 16) for number in match.groups())
        return Said(text.strip(), VirtAddr(va), PhysAddr(has), PhysAddr(wanted))
    if match := _SAID[1].search(text):
        va, wanted, has = (int(number, 16) for number in match.groups())
        return Said(text.strip(), VirtAddr(va), PhysAddr(has), PhysAddr(wanted))
    for pattern in _FRAME_ONLY:
        if match := pattern.search(text):
            return Said(text.strip(), None, PhysAddr(int(match[1], 16)), None)
    return None


def _finding(kernel: Kernel, said: Said) -> Finding:
    where, subject, way = Where(pa=said.has), "kernel", None
    if said.va is not None:
        holders = [s for s in kernel.audited if _maps(kernel, s, said.va, said.has)]
        space = _meant(kernel, holders)
        if space is not None:
            found = obstacle(kernel, said.va, space)
            way = _way(found, holders)
            subject = "kernel" if len(holders) == len(kernel.audited) else space.subject
            where = place_of(found.walk)
    facts = AlreadyFacts(
        message=said.text,
        va=said.va,
        has=said.has,
        wanted=said.wanted,
        way=way,
        symbol=None if said.va is None else kernel.symbol(said.va),
    )
    return Finding(ALREADY_MAPPED, subject, facts, where)


def _maps(kernel: Kernel, space: Space, va: int, frame: int) -> bool:
    pa = kernel.walk(space.root, va).pa
    return pa is not None and pa & ~0xFFF == frame & ~0xFFF


def _meant(kernel: Kernel, holders: Sequence[Space]) -> Space | None:
    """The space the message is about: one that maps the address so, CR3's if that is one."""
    current = kernel.space_of(kernel.stop.cpu.root)
    if current is not None and (current in holders or not holders):
        return current
    return holders[0] if holders else kernel.master


def _way(found: Obstacle, holders: Sequence[Space]) -> Way:
    return Way(
        holders=tuple(holders),
        levels=tuple(
            LevelRow(
                level=level.entry.level,
                entry_pa=level.entry.entry_pa,
                entry=Hex(level.entry.raw),
                shared_by=level.shared_by[:MOST_SHOWN],
            )
            for level in found.levels
        ),
    )
