"""The shape of the page tables: loops, tables outside RAM, tables that two spaces share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.addresses import PAGE, Hex, PhysAddr, VirtAddr, hex64
from breenix_gdbagent.checks.completeness import require_user_halves
from breenix_gdbagent.checks.facts import ASIDE, Facts
from breenix_gdbagent.checks.finding import Code, Finding, NotChecked, Where, declare, place_of
from breenix_gdbagent.checks.reasons import NotRead, State, TablesMissing
from breenix_gdbagent.kernel.ledger import FrameLedger
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.graph import Link, Node
from breenix_gdbagent.x86.mapped_space import Spaces

MOST_SHOWN = 16

SHARED_USER = declare(
    "shared-table.user",
    "error",
    "two processes share a page table of user memory",
    arises="All top-level entries were copied instead of the kernel's, or a user slot was reached "
    "through the master: mapping a page in one process maps it in the other.",
    confirm="pt walk the address under both roots: the entries name one table frame.",
    mend="Give each process fresh tables for its user slots.",
)
SHARED_CONFLICT = declare(
    "shared-table.conflict",
    "error",
    "one table serves two purposes",
    arises="A table frame was given out again while still linked, so that it is a table of two "
    "levels or is named by two entries: a page mapped in one region appears in the other.",
    confirm="pt who FRAME lists both uses.",
    mend="Look for a table freed while referenced.",
)
CYCLE = declare(
    "table.cycle",
    "error",
    "a page table leads back to itself",
    arises="An entry names a table above it: every walk through it ends somewhere unintended and "
    "user code may edit page tables through it.",
    confirm="pt walk the address shows the same frame twice.",
    mend="Where no recursive mapping is meant, clear the entry.",
)
BEYOND_RAM = declare(
    "table.beyond-ram",
    "error",
    "an entry names a page table outside RAM",
    arises="The entry was overwritten, or a frame number beyond RAM was given out.",
    confirm="pt walk the address: reason unreadable at that level.",
    mend="Check the frame allocator's regions against the memory map.",
)


NX_WITHOUT_NXE = declare(
    "tables.nx-without-nxe",
    "warning",
    "a CPU without EFER.NXE runs on tables that use NX",
    arises="Bit 63 is a reserved bit while EFER.NXE is 0 (SDM vol. 3, 4.5): each access through "
    "such an entry is a page fault. Often the boot CPU has NXE set, and another CPU does not.",
    confirm="EFER of each CPU (info registers -a), bit 11; pt walk an address that has NX.",
    mend="Set EFER.NXE (bit 11 of MSR 0xC0000080) on every CPU before it loads a CR3 whose tables "
    "use bit 63.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NxFacts(Facts):
    """`pages` of 4 KiB that a CPU's space maps with bit 63 in some entry, the first at `va`, while
    NXE is 0 there."""

    cpu: int
    efer: Hex | None
    root: PhysAddr
    pages: int
    va: VirtAddr
    space: Annotated[str, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRow(Facts):
    """One entry that names a table, and for which addresses of which root."""

    root: PhysAddr
    va: VirtAddr
    entry_pa: PhysAddr
    entry: Hex
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFacts(Facts):
    """Entries of one table that name no table that could be meant: `entries` of them, the first
    naming `table`; `space` is whose it is, by its label or root."""

    table: PhysAddr
    level: int
    entries: int
    space: Annotated[str, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictFacts(Facts):
    """A frame that is a table twice: of two levels, or named for two places (`entries`, at most
    sixteen). `users`: the space that names a table of the kernel's in a slot of its own."""

    frame: PhysAddr
    levels: tuple[int, ...]
    entries: tuple[LinkRow, ...]
    space: Annotated[str, ASIDE]
    users: Annotated[str | None, ASIDE] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFacts(Facts):
    """A table of user memory that several spaces reach, first for addresses from `start`."""

    table: PhysAddr
    level: int
    spaces: tuple[Space, ...]
    entries: tuple[LinkRow, ...]
    start: Annotated[VirtAddr, ASIDE]


def _nx_without_nxe(kernel: Kernel) -> Iterator[Finding]:
    """Each CPU whose EFER.NXE is 0 and whose tables use bit 63; `Kernel.merged` leaves that bit out
    where the stop's own CPU has no NXE."""
    for cpu in kernel.stop.cpus:
        mode, root = cpu.paging, cpu.root
        if mode is None or root is None or mode.nxe is not False:
            continue
        ranges = [r for r in Spaces(kernel.tables, mode.levels).space(root).ranges if r.nx]
        if not ranges:
            continue
        efer, space = cpu.get("efer"), kernel.space_of(root)
        facts = NxFacts(
            cpu=cpu.index,
            efer=None if efer is None else Hex(efer),
            root=root,
            pages=sum(r.end - r.start for r in ranges) // PAGE,
            va=ranges[0].start,
            space=space.label if space is not None else f"root {hex64(root)}",
        )
        where = place_of(kernel.walk(root, ranges[0].start))
        yield Finding(NX_WITHOUT_NXE, f"CPU {cpu.index}", facts, where)


def check_shape(kernel: Kernel) -> Iterator[Finding]:
    """Loops, tables in no RAM, frames that are tables twice. Any kernel: it needs no Breenix."""
    if kernel.mode is None:
        raise NotChecked(NotRead(kernel.stop.no_paging))
    ledger = kernel.ledger
    graph = ledger.graph
    yield from _bad_links(kernel, CYCLE, graph.cycles)
    yield from _bad_links(kernel, BEYOND_RAM, graph.beyond)
    yield from _two_levels(kernel, ledger)
    yield from _nx_without_nxe(kernel)
    if kernel.is_breenix:
        yield from _two_parents(kernel, ledger)
    if graph.truncated:
        raise NotChecked(State.TOO_MANY_TABLES)
    if graph.unreadable:
        raise NotChecked(TablesMissing(len(graph.unreadable), graph.unreadable[0].table))
    if kernel.stop.memory.ram is None:
        raise NotChecked(State.END_OF_RAM_NOT_KNOWN)
    require_user_halves(kernel, ledger)


def check_shared(kernel: Kernel) -> Iterator[Finding]:
    """User tables that two spaces reach: the topmost, since what lies below is shared with it."""
    ledger = kernel.ledger
    if ledger.master is None:
        raise NotChecked(NotRead(kernel.no_master))
    vouched = {s.root for s in (ledger.master, *ledger.processes) if kernel.user_half_is_own(s)}
    for key, links in sorted(ledger.graph.sharers.items()):
        node = ledger.graph.nodes[key]
        if node.kernel:
            yield from _kernels_in_user_half(kernel, node, links, vouched)
            continue
        roots = dict.fromkeys((node.owner, *(link.root for link in links)))
        holders = [s for s in (ledger.master, *ledger.processes) if s.root in roots]
        sure = [s for s in holders if s.root in vouched]
        if len(sure) > 1:
            yield _shared(node, links, sure)
    require_user_halves(kernel, ledger)


def _kernels_in_user_half(
    kernel: Kernel, node: Node, links: Sequence[Link], vouched: set[PhysAddr]
) -> Iterator[Finding]:
    """A table of the kernel's that processes name in slots of their own."""
    ways = [link for link in links if link.root in vouched]
    if ways:
        yield _conflict(kernel, [node], ways, users=_label(kernel, ways[0].root))


def _label(kernel: Kernel, root: int) -> str:
    space = kernel.space_of(root)
    return space.label if space is not None else hex64(root)


def _bad_links(kernel: Kernel, code: Code, links: Sequence[Link]) -> Iterator[Finding]:
    """One finding for each table that has such entries."""
    by_table: dict[int, list[Link]] = defaultdict(list)
    for link in links:
        by_table[link.entry_pa & ~0xFFF].append(link)
    for found in list(by_table.values())[:MOST_SHOWN]:
        first = found[0]
        space = kernel.space_of(first.root)
        facts = LinkFacts(
            table=first.table,
            level=first.level,
            entries=len(found),
            space=_label(kernel, first.root),
        )
        where = Where(first.root, first.va, first.table, first.raw, first.entry_pa, first.level)
        yield Finding(code, space.subject if space is not None else "unknown", facts, where)


def _two_levels(kernel: Kernel, ledger: FrameLedger) -> Iterator[Finding]:
    shown = 0
    for frame, levels in sorted(ledger.table_frames.items()):
        if len(levels) < 2 or shown >= MOST_SHOWN:
            continue
        shown += 1
        nodes = [ledger.graph.nodes[frame | level] for level in sorted(levels, reverse=True)]
        yield _conflict(kernel, nodes)


def _two_parents(kernel: Kernel, ledger: FrameLedger) -> Iterator[Finding]:
    for key, links in list(sorted(ledger.graph.again.items()))[:MOST_SHOWN]:
        node = ledger.graph.nodes[key]
        if node.link is None or len(ledger.table_frames[node.frame]) > 1:
            continue
        yield _conflict(kernel, [node], links)


def _conflict(
    kernel: Kernel, nodes: Sequence[Node], again: Sequence[Link] = (), users: str | None = None
) -> Finding:
    node = nodes[-1]
    links = [link for link in (*(n.link for n in nodes), *again) if link is not None]
    last = links[-1] if links else None
    space = kernel.space_of(last.root if last is not None else node.owner)
    facts = ConflictFacts(
        frame=node.frame,
        levels=tuple(sorted({n.level for n in nodes})),
        entries=tuple(_row(link) for link in links[:MOST_SHOWN]),
        space=_label(kernel, last.root if last is not None else node.owner),
        users=users,
    )
    where = Where(
        node.owner if last is None else last.root,
        None if last is None else last.va,
        node.frame,
        None if last is None else last.raw,
        None if last is None else last.entry_pa,
        None if last is None else last.level,
    )
    return Finding(SHARED_CONFLICT, space.subject if space is not None else "table", facts, where)


def _row(link: Link) -> LinkRow:
    return LinkRow(
        root=link.root, va=link.va, entry_pa=link.entry_pa, entry=Hex(link.raw), level=link.level
    )


def _two_subjects(holders: Sequence[Space]) -> list[str]:
    return sorted({s.subject for s in holders})[:2]


def _shared(node: Node, links: Sequence[Link], holders: Sequence[Space]) -> Finding:
    first = node.link or links[0]
    held = {s.root for s in holders}
    ways = [link for link in (first, *links) if link.root in held]
    last = ways[-1]
    facts = SharedFacts(
        table=node.frame,
        level=node.level,
        spaces=tuple(holders),
        entries=tuple(_row(link) for link in ways[:MOST_SHOWN]),
        start=first.va,
    )
    return Finding(
        SHARED_USER,
        # Stable however many processes live at the stop: through the master all have it.
        "master" if holders[0].role == "master" else "+".join(_two_subjects(holders)),
        facts,
        Where(last.root, last.va, node.frame, last.raw, last.entry_pa, last.level),
    )
