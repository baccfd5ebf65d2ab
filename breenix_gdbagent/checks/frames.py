"""Physical frames: what maps them, against RAM, the page tables and each other.

What the allocator says of them is `frame_states.py`'s.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.addresses import Hex, PhysAddr, VirtAddr
from breenix_gdbagent.checks.completeness import require_user_halves
from breenix_gdbagent.checks.facts import ASIDE, Facts
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.checks.reasons import NotRead, Reason, SharingNotRead, State
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.ledger import FrameLedger, Page
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.memory import RamMap
from breenix_gdbagent.x86.graph import Node
from breenix_gdbagent.x86.paging import PCD, PWT, U, frame_of, index_at

MOST_SHOWN = 16

BEYOND_RAM = declare(
    "frame.beyond-ram",
    "error",
    "a page is mapped to where there is no RAM",
    arises="An address was taken for a frame: mapping a kernel region with physical == virtual, "
    "or an entry that was overwritten. What is written there is lost and what is read is not what "
    "was written. Memory-mapped devices (below 4 GiB, or mapped uncached) and direct maps that "
    "are larger than RAM are not meant.",
    confirm="pt walk VA shows the physical address; compare it with the RAM map.",
    mend="Take frames from the allocator only; map devices uncached.",
)
MAPS_TABLE = declare(
    "frame.maps-page-table",
    "error",
    "a page table can be reached as memory where it should not",
    arises="A table's frame is also mapped as a page that ring 3 may use, or that the kernel has "
    "outside its direct map: whoever writes there edits page tables. A frame freed and given out "
    "again while it was still a table, or a table frame mapped by mistake.",
    confirm="pt who FRAME lists its use as a table and the mapping.",
    mend="Free a table only after its entry is cleared, and never map a frame that the allocator "
    "did not just give.",
)
MAPPED_TWICE = declare(
    "frame.mapped-twice",
    "error",
    "one frame is writable in two places that should not share it",
    arises="A frame is writable for ring 3 in two processes without being copy-on-write or shared "
    "on purpose, or for ring 3 and for the kernel outside its direct map, or twice in the kernel: "
    "one overwrites the other.",
    confirm="pt who FRAME lists all its mappings.",
    mend="Look for a frame given out twice, a leaf copied between page tables, or a fork that "
    "left W set.",
)

_PCI_HOLE_END = 1 << 32
_DEVICES_END = 1 << 46
"""No device of a machine that we know lies above; an address taken for a frame often does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeyondFacts(Facts):
    """Pages of one table that name no RAM, the first of them at `va` of `space` (a label)."""

    va: VirtAddr
    pa: PhysAddr
    pages: int
    shared_by_all: bool
    symbol: Annotated[str | None, ASIDE]
    space: Annotated[str, ASIDE]
    ram_end: Annotated[PhysAddr, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapsTableFacts(Facts):
    """Pages of one table that map frames which are tables; `owner` is whose that table is, and
    `space` who maps it, by their labels."""

    table: PhysAddr
    levels: tuple[int, ...]
    va: VirtAddr
    writable: bool
    user: bool
    pages: Annotated[int, ASIDE]
    owner: Annotated[str, ASIDE]
    space: Annotated[str, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingRow(Facts):
    """One of the places where a frame is mapped."""

    space: str
    va: VirtAddr
    entry_pa: PhysAddr
    entry: Hex
    user: bool
    symbol: Annotated[str | None, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwiceFacts(Facts):
    """Frames that are writable in the same two places, and the two mappings of the first."""

    frame: PhysAddr
    frames: int
    mappings: tuple[MappingRow, ...]


def check_ram(kernel: Kernel) -> Iterator[Finding]:
    """Leaves that name no RAM, devices and direct maps left out. Any kernel."""
    if kernel.mode is None:
        raise NotChecked(NotRead(kernel.stop.no_paging))
    ram = kernel.stop.memory.ram
    if ram is None:
        raise NotChecked(State.END_OF_RAM_NOT_KNOWN)
    ledger = kernel.ledger
    for node in ledger.graph.nodes.values():
        if node.raws and not _all_ram(ram, node):
            there = node.pages()
            outside = ram.outside([base for _, _, base in there], 1 << node.shift)
            found = [
                ledger.page(node, index, raw)
                for index, raw, base in there
                if base in outside and _astray(ledger, node, index, raw, base)
            ]
            if found:
                yield _beyond(kernel, ledger, found)
    require_user_halves(kernel, ledger)


def _all_ram(ram: RamMap, node: Node) -> bool:
    """Whether the lowest and the highest page lie in one range of RAM."""
    bases = node.frames()
    low, high = min(bases), max(bases)
    found = ram.find(low)
    return found is not None and high + (1 << node.shift) <= found.end


def _astray(ledger: FrameLedger, node: Node, index: int, raw: int, pa: int) -> bool:
    """Whether a page at `pa` outside RAM is no device's and of no direct map."""
    if pa < _PCI_HOLE_END or (raw & (PCD | PWT) and pa < _DEVICES_END):
        return False
    return not ledger.direct(node, index, raw)


def _beyond(kernel: Kernel, ledger: FrameLedger, pages: Sequence[Page]) -> Finding:
    page = pages[0]
    space = ledger.space_of(page.node)
    ram = kernel.stop.memory.ram
    facts = BeyondFacts(
        va=page.va,
        pa=page.pa,
        pages=len(pages),
        shared_by_all=page.node.kernel,
        symbol=kernel.symbol(page.va),
        space=_label(space),
        ram_end=PhysAddr(ram.top if ram else 0),
    )
    subject = _region(ledger, page) if page.node.kernel else _subject(space)
    return Finding(BEYOND_RAM, subject, facts, _where(page))


def check_tables(kernel: Kernel) -> Iterator[Finding]:
    """Leaves that map a frame which is in use as a page table: for ring 3 on any kernel, outside
    the direct map on Breenix (others keep tables in their image)."""
    if kernel.mode is None:
        raise NotChecked(NotRead(kernel.stop.no_paging))
    ledger = kernel.ledger
    frames = ledger.table_frames.keys()
    ordered = sorted(frames)
    for node in ledger.graph.nodes.values():
        if not node.raws:
            continue
        if node.level == 1:
            if frames.isdisjoint(node.frames()):
                continue
            hits = [(i, raw) for i, raw in node.leaves() if frame_of(raw) in frames]
        else:
            size = 1 << node.shift
            hits = [(i, raw) for i, raw, base in node.pages() if _covers(ordered, base, size)]
        found = [
            ledger.page(node, index, raw)
            for index, raw in hits
            if node.rights & raw & U or (kernel.is_breenix and not ledger.direct(node, index, raw))
        ]
        if found:
            yield _maps_table(ledger, found, ordered)
    require_user_halves(kernel, ledger)


def _covers(ordered: Sequence[int], base: int, size: int) -> bool:
    """Whether one of the frames lies in the `size` bytes from `base`."""
    at = bisect_left(ordered, base)
    return at < len(ordered) and ordered[at] < base + size


def _maps_table(ledger: FrameLedger, pages: Sequence[Page], ordered: Sequence[int]) -> Finding:
    page = pages[0]
    space = ledger.space_of(page.node)
    frame = PhysAddr(ordered[bisect_left(ordered, page.pa)])
    levels = sorted(ledger.table_frames[frame])
    node = ledger.graph.nodes[frame | levels[-1]]
    facts = MapsTableFacts(
        table=frame,
        levels=tuple(levels),
        va=page.va,
        writable=page.w,
        user=page.u,
        pages=len(pages),
        owner="the kernel" if node.kernel else _label(ledger.space_of(node)),
        space=_label(space),
    )
    return Finding(MAPS_TABLE, _subject(space), facts, _where(page))


def check_twice(kernel: Kernel) -> Iterator[Finding]:
    """Frames that ring 3 may write in two processes, or that the kernel keeps for itself as well,
    and frames that the kernel has twice."""
    ledger = kernel.ledger
    if ledger.master is None:
        raise NotChecked(NotRead(kernel.no_master))
    unknown = yield from _of_processes(kernel, ledger)
    yield from _twice_in_kernel(kernel, ledger)
    if unknown is not None:
        raise NotChecked(unknown)
    require_user_halves(kernel, ledger)


def _of_processes(kernel: Kernel, ledger: FrameLedger) -> Generator[Finding, None, Reason | None]:
    """Yields findings; returns why something was left out, None where nothing was."""
    on_purpose, unknown = _purpose(kernel)
    if on_purpose is None:
        return unknown
    counted = {s.root for s in ledger.processes}
    mine = ledger.kernel_frames
    first: dict[int, Page] = {}
    pairs: dict[tuple[int, int], list[tuple[Page, Page]]] = defaultdict(list)
    inside: dict[int, list[Page]] = defaultdict(list)
    marked = kernel.adapter.shared_on_purpose
    for page in ledger.user_pages():
        if page.node.owner not in counted or not page.w or marked(page.raw):
            continue
        known = first.setdefault(page.pa, page)
        if known is not page and known.node.owner != page.node.owner and not on_purpose(page):
            pairs[known.node.owner, page.node.owner].append((known, page))
        if page.pa in mine and not on_purpose(page):
            inside[page.node.owner].append(page)
    for found in pairs.values():
        yield _twice(kernel, ledger, found)
    for pages in inside.values():
        yield _twice(kernel, ledger, [(ledger.page_at(mine[p.pa]), p) for p in pages])
    return unknown


def _purpose(kernel: Kernel) -> tuple[Callable[[Page], bool] | None, Reason | None]:
    """Whether ring 3 has a page that is shared on purpose, and what of that is not known.

    2025 shares nothing on purpose. 2026 shares MAP_SHARED areas, and frames that the frame ledger
    has as mapped for an owner elsewhere.
    """
    try:
        frames, processes = kernel.structures.frames, kernel.structures.processes.processes
    except ReadError as lacking:
        if kernel.era is not None and kernel.era.name == "2025":
            return lambda page: False, None
        return None, SharingNotRead(lacking.what)
    areas = {p.root: p.shared for p in processes if p.root is not None}

    def on_purpose(page: Page) -> bool:
        shared = areas.get(page.node.owner, ())
        return frames.external(page.pa) or any(low <= page.va < high for low, high in shared)

    return on_purpose, None


def _twice_in_kernel(kernel: Kernel, ledger: FrameLedger) -> Iterator[Finding]:
    """Writable kernel pages of one frame; two stacks on one are kernel-stack.aliased."""
    stacks = {va for stack in (*kernel.stacks, *kernel.ist) for va in stack.pages}
    found: list[tuple[Page, Page]] = []
    for entry_pa in ledger.kernel_twice:
        second = ledger.page_at(entry_pa)
        first = ledger.page_at(ledger.kernel_frames[second.pa])
        if first.w and second.w and not (first.va in stacks and second.va in stacks):
            found.append((first, second))
    if found:
        yield _twice(kernel, ledger, found)


def _twice(kernel: Kernel, ledger: FrameLedger, found: Sequence[tuple[Page, Page]]) -> Finding:
    first, second = found[0]
    subjects = sorted({_stable(ledger, page) for page in (first, second)})
    facts = TwiceFacts(
        frame=first.pa,
        frames=len(found),
        mappings=tuple(
            MappingRow(
                space=_owner(ledger, page),
                va=page.va,
                entry_pa=page.entry_pa,
                entry=Hex(page.raw),
                user=page.u,
                symbol=kernel.symbol(page.va),
            )
            for page in (first, second)
        ),
    )
    return Finding(MAPPED_TWICE, "+".join(subjects), facts, _where(second))


def _region(ledger: FrameLedger, page: Page) -> str:
    """What the kernel keeps in the slot of an address, else the slot."""
    slot = index_at(page.va, ledger.graph.levels)
    uses = ledger.slots.uses if ledger.slots is not None else {}
    return uses.get(slot, f"PML4[{slot}]")


def _owner(ledger: FrameLedger, page: Page) -> str:
    return "the kernel" if page.node.kernel else _label(ledger.space_of(page.node))


def _stable(ledger: FrameLedger, page: Page) -> str:
    return "kernel" if page.node.kernel else _subject(ledger.space_of(page.node))


def _label(space: Space | None) -> str:
    return space.label if space is not None else "an unknown space"


def _subject(space: Space | None) -> str:
    return space.subject if space is not None else "unknown"


def _where(page: Page) -> Where:
    return Where(page.node.owner, page.va, page.pa, page.raw, page.entry_pa, page.node.level)
