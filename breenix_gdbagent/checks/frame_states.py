"""What the frame allocator says of the frames that are in use, and of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.checks.facts import ASIDE, Facts
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.checks.reasons import NotRead, State
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.allocators import ALLOCATED, FrameAllocator
from breenix_gdbagent.kernel.ledger import FrameLedger, Page
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.graph import Node

MOST_SHOWN = 16
OUT_OF_MEMORY = "OUT OF MEMORY"  # kernel/src/memory/process_memory.rs, map_page

TABLE_FREED = declare(
    "table.freed",
    "error",
    "a page table in use lies in a frame that is free",
    arises="A table was given back while an entry still names it. The next owner of the frame "
    "overwrites the mappings.",
    confirm="frames FRAME says free; pt who FRAME shows it as a table.",
    mend="Clear the entry, flush, and only then give the frame back; never free tables of the "
    "kernel's slots.",
)
FREE_MAPPED = declare(
    "frame.free-but-mapped",
    "error",
    "a page that is mapped lies in a frame that is free",
    arises="A frame was given back while a leaf still maps it, or a page was mapped to a frame "
    "that was never allocated.",
    confirm="frames FRAME says free or never given out; pt who FRAME shows the mapping.",
    mend="Unmap before the frame is given back, and count references of shared frames.",
)
DOUBLE = declare(
    "frame.double-allocated",
    "error",
    "a frame will be given out while it is in use",
    arises="The free list holds a frame that the ledger has as allocated, or the same frame twice: "
    "it was given back twice, or claimed without being taken from the list.",
    confirm="frames FRAME; print the allocator's free list.",
    mend="Let one owner alone give a frame back, once.",
)
EXHAUSTED = declare(
    "frames.exhausted",
    "error",
    "there is no free frame left",
    arises="All usable memory is given out.",
    confirm="frames shows used and total.",
    mend="Give the machine more memory (-m), or find who does not return frames (frames.leak "
    "between two stops).",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreedTableFacts(Facts):
    """A table in use whose frame the allocator does not have as given out (`state` says what it
    has); `space` is whose it is."""

    table: PhysAddr
    level: int
    state: str
    space: Annotated[str, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeMappedFacts(Facts):
    """Pages of one owner in frames that are free; the first at `va` of `space`."""

    frame: PhysAddr
    va: VirtAddr
    state: str
    frames: int
    addresses: tuple[VirtAddr, ...]
    symbol: Annotated[str | None, ASIDE]
    space: Annotated[str, ASIDE]


ListWhy = Literal["twice", "not-usable", "never-given-out", "allocated"]


@dataclass(frozen=True, slots=True)
class ListFlaw:
    """Why a frame should not stand in the free list as it does: `count` times."""

    why: ListWhy
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlawedFrame(Facts):
    """A frame in the free list, and what is wrong with that."""

    frame: PhysAddr
    what: ListFlaw


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameUse(Facts):
    """A place where such a frame is mapped."""

    space: str
    va: VirtAddr
    user: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeListFacts(Facts):
    """Frames that stand in the free list wrongly (the first sixteen of `count`), and where the
    first of them is mapped."""

    frames: tuple[FlawedFrame, ...]
    count: int
    mapped: tuple[FrameUse, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesLeftFacts(Facts):
    """The allocator's account: all frames are given out."""

    total: int
    frontier: int
    free_list: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoFrameFacts(Facts):
    """The kernel's own word for it, where the account cannot be read."""

    said: str


def check_states(kernel: Kernel) -> Iterator[Finding]:
    """Tables and pages in use against the allocator's word, and its free list against its ledger.

    A stop in the middle of giving a frame back is told apart by the list's lock.
    """
    frames = kernel.structures.frames
    if frames.locked:
        raise NotChecked(State.FREE_LIST_LOCKED)
    ledger = kernel.ledger
    if ledger.master is None:
        raise NotChecked(NotRead(kernel.no_master))
    yield from _tables(kernel, ledger, frames)
    yield from _pages(kernel, ledger, frames)
    yield from _free_list(kernel, frames)


def check_exhausted(kernel: Kernel) -> Iterator[Finding]:
    """Whether any frame is left, by the allocator's account or the kernel's word."""
    said = kernel.panic_message or ""
    try:
        frames = kernel.structures.frames
    except ReadError:
        if OUT_OF_MEMORY in said:
            facts = NoFrameFacts(said=said)
            yield Finding(EXHAUSTED, "frame allocator", facts, confidence="likely")
        raise
    if frames.frontier < frames.total or frames.free_list:
        return
    left = FramesLeftFacts(total=frames.total, frontier=frames.frontier, free_list=0)
    yield Finding(EXHAUSTED, "frame allocator", left)


def _whose(ledger: FrameLedger, node: Node) -> str:
    if node.kernel:
        return "the kernel"
    space = ledger.space_of(node)
    return space.label if space else "an unknown space"


def _subject(ledger: FrameLedger, node: Node) -> str:
    if node.kernel:
        return "kernel"
    space = ledger.space_of(node)
    return space.subject if space else "unknown"


def _counted(kernel: Kernel, ledger: FrameLedger, node: Node) -> bool:
    space = ledger.space_of(node)
    if space is None or space.role in ("boot", "unknown"):
        return False
    return kernel.user_half_is_own(space)


def _tables(kernel: Kernel, ledger: FrameLedger, frames: FrameAllocator) -> Iterator[Finding]:
    gone = dict(frames.gone(ledger.table_frames.keys()))
    nodes = [n for n in ledger.graph.nodes.values() if n.frame in gone] if gone else []
    for node in [n for n in nodes if _counted(kernel, ledger, n)][:MOST_SHOWN]:
        link = node.link
        facts = FreedTableFacts(
            table=node.frame,
            level=node.level,
            state=gone[node.frame],
            space=_whose(ledger, node),
        )
        where = Where(
            node.owner,
            None if link is None else link.va,
            node.frame,
            None if link is None else link.raw,
            None if link is None else link.entry_pa,
            None if link is None else link.level,
        )
        yield Finding(TABLE_FREED, _subject(ledger, node), facts, where)


def _pages(kernel: Kernel, ledger: FrameLedger, frames: FrameAllocator) -> Iterator[Finding]:
    tables = ledger.table_frames
    by_owner: dict[str, list[tuple[Page, str]]] = {}
    for frame, state in frames.gone(ledger.kernel_frames.keys()):
        if frame not in tables:
            page = ledger.page_at(ledger.kernel_frames[frame])
            by_owner.setdefault("kernel", []).append((page, state))
    users = {page.pa: page for page in ledger.user_pages() if page.pa not in tables}
    for frame, state in frames.gone(users.keys()):
        page = users[PhysAddr(frame)]
        if _counted(kernel, ledger, page.node):
            space = ledger.space_of(page.node)
            by_owner.setdefault(space.subject if space else "unknown", []).append((page, state))
    for subject, found in by_owner.items():
        yield _free_mapped(kernel, ledger, subject, found)


def _free_mapped(
    kernel: Kernel, ledger: FrameLedger, subject: str, found: Sequence[tuple[Page, str]]
) -> Finding:
    page, state = found[0]
    facts = FreeMappedFacts(
        frame=page.pa,
        va=page.va,
        state=state,
        frames=len(found),
        addresses=tuple(p.va for p, _ in found[:MOST_SHOWN]),
        symbol=kernel.symbol(page.va),
        space=_whose(ledger, page.node),
    )
    where = Where(page.node.owner, page.va, page.pa, page.raw, page.entry_pa, page.node.level)
    return Finding(FREE_MAPPED, subject, facts, where)


def _free_list(kernel: Kernel, frames: FrameAllocator) -> Iterator[Finding]:
    """Frames that stand in the free list and are not free, twice, or no frames at all."""
    wrong: list[FlawedFrame] = []
    for frame, count in Counter(frames.free_list).items():
        why = _why(frames, frame, count)
        if why is not None:
            wrong.append(FlawedFrame(frame=frame, what=ListFlaw(why, count)))
    if wrong:
        first = wrong[0].frame
        facts = FreeListFacts(
            frames=tuple(wrong[:MOST_SHOWN]), count=len(wrong), mapped=_mapped(kernel, first)
        )
        yield Finding(DOUBLE, "free list", facts, Where(pa=first))


def _why(frames: FrameAllocator, frame: PhysAddr, count: int) -> ListWhy | None:
    ordinal = frames.ordinal(frame)
    if count > 1:
        return "twice"
    if ordinal is None:
        return "not-usable"
    if ordinal >= frames.frontier:
        return "never-given-out"
    slot = None if frames.ledger is None else frames.ledger.slot(ordinal)
    return "allocated" if slot is not None and slot[0] == ALLOCATED else None


def _mapped(kernel: Kernel, frame: PhysAddr) -> tuple[FrameUse, ...]:
    """Where the frame is mapped, direct maps left out."""
    try:
        found = kernel.ledger.who(frame)
    except ReadError:
        return ()
    mapped: list[FrameUse] = []
    for m in found.mappings:
        space = kernel.space_of(m.root)
        if m.level == 1 and space is not None:
            mapped.append(FrameUse(space=space.label, va=VirtAddr(m.va), user=m.effective.u))
    return tuple(mapped[:MOST_SHOWN])
