"""What the frame allocator says of the frames that are in use, and of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from breenix_gdbagent.addresses import PhysAddr, hex64
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare, hexes
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.allocators import ALLOCATED, FrameAllocator
from breenix_gdbagent.kernel.graph import Node
from breenix_gdbagent.kernel.ledger import FrameLedger, Page
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import LEVEL

_FRAMES = "kernel/src/memory/frame_allocator.rs"
MOST_SHOWN = 16
OUT_OF_MEMORY = "OUT OF MEMORY"  # kernel/src/memory/process_memory.rs, map_page

TABLE_FREED = declare(
    "table.freed",
    "error",
    "a page table in use lies in a frame that is free",
    arises="A table was given back while an entry still names it (Breenix 2e13e9a2: "
    "cleanup_for_exec freed shared kernel tables; 940bc262: exec freed the PML4 in CR3). The next "
    "owner of the frame overwrites the mappings.",
    confirm="frames FRAME says free; pt who FRAME shows it as a table.",
    mend="Clear the entry, flush, and only then deallocate_frame; never free tables of kernel "
    "slots.",
    see=(_FRAMES, "kernel/src/memory/process_memory.rs"),
)
FREE_MAPPED = declare(
    "frame.free-but-mapped",
    "error",
    "a page that is mapped lies in a frame that is free",
    arises="A frame was given back while a leaf still maps it (Breenix 41c68458: an untracked "
    "frame freed by a copy-on-write decref), or a page was mapped to a frame that was never "
    "allocated.",
    confirm="frames FRAME says free or never given out; pt who FRAME shows the mapping.",
    mend="Unmap before deallocate_frame, and count references of shared frames.",
    see=(_FRAMES, "kernel/src/memory/process_memory.rs"),
)
DOUBLE = declare(
    "frame.double-allocated",
    "error",
    "a frame will be given out while it is in use",
    arises="The free list holds a frame that the ledger has as allocated, or the same frame twice: "
    "it was given back twice, or claimed without being taken from the list.",
    confirm="print FREE_FRAMES; frames FRAME.",
    mend="Return a frame through its lease only (FrameLease); see the FRAME_RETURN_REFUSED_* "
    "counters.",
    see=(_FRAMES,),
)
EXHAUSTED = declare(
    "frames.exhausted",
    "error",
    "there is no free frame left",
    arises="All usable memory is given out. In 2025 nothing ever comes back (deallocate_frame does "
    "nothing), so that every process costs frames for good.",
    confirm="frames shows used and total.",
    mend="Give the machine more memory (-m), or find who does not return frames (frames.leak "
    "between two stops).",
    see=(_FRAMES,),
)


def check_states(kernel: Kernel) -> Iterator[Finding]:
    """Tables and pages in use against the allocator's word, and its free list against its ledger.

    A stop in the middle of giving a frame back is told apart by the list's lock.
    """
    frames = kernel.books.frames
    if frames.locked:
        raise NotChecked("the free list's lock is taken: a frame is on its way in or out")
    ledger = kernel.ledger
    if ledger.master is None:
        raise NotChecked(kernel.no_master)
    yield from _tables(kernel, ledger, frames)
    yield from _pages(kernel, ledger, frames)
    yield from _free_list(kernel, frames)


def check_exhausted(kernel: Kernel) -> Iterator[Finding]:
    """Whether any frame is left, by the allocator's account or the kernel's word."""
    said = kernel.panic_message or ""
    try:
        frames = kernel.books.frames
    except ReadError:
        if OUT_OF_MEMORY in said:
            text = f"the kernel says: {said}"
            yield Finding(
                EXHAUSTED, text, "frame allocator", {"said": said}, confidence="likely",
                fix=EXHAUSTED.mend,
            )  # fmt: skip
        raise
    if frames.frontier < frames.total or frames.free_list:
        return
    yield Finding(
        EXHAUSTED,
        f"all {frames.total} frames ({frames.total >> 8} MiB) are given out, and the free list is "
        f"empty",
        "frame allocator",
        {"total": frames.total, "frontier": frames.frontier, "free_list": 0},
        fix=EXHAUSTED.mend,
    )


def _said(state: str) -> str:
    return "the allocator has it as free" if state == "free" else "it was never given out"


def _counted(kernel: Kernel, ledger: FrameLedger, node: Node) -> bool:
    space = ledger.space_of(node)
    if space is None or space.role in ("boot", "unknown"):
        return False
    return kernel.believed(space)


def _tables(kernel: Kernel, ledger: FrameLedger, frames: FrameAllocator) -> Iterator[Finding]:
    gone = dict(frames.gone(ledger.table_frames.keys()))
    nodes = [n for n in ledger.graph.nodes.values() if n.frame in gone] if gone else []
    for node in [n for n in nodes if _counted(kernel, ledger, n)][:MOST_SHOWN]:
        state = gone[node.frame]
        link, space = node.link, ledger.space_of(node)
        whose = "the kernel" if node.kernel else (space.label if space else "an unknown space")
        yield Finding(
            TABLE_FREED,
            f"the {LEVEL[node.level].name} at {hex64(node.frame)} of {whose} is in use, but "
            f"{_said(state)}",
            "kernel" if node.kernel else (space.subject if space else "unknown"),
            {"table": hex64(node.frame), "level": node.level, "state": state},
            Where(
                node.owner,
                None if link is None else link.va,
                node.frame,
                None if link is None else link.raw,
                None if link is None else link.entry_pa,
                None if link is None else link.level,
            ),
            fix=TABLE_FREED.mend,
        )


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
    space = ledger.space_of(page.node)
    whose = "the kernel" if page.node.kernel else (space.label if space else "an unknown space")
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Finding(
        FREE_MAPPED,
        f"{kernel.describe(page.va)} of {whose} is mapped to frame {hex64(page.pa)}, but "
        f"{_said(state)}{more}",
        subject,
        {
            "frame": hex64(page.pa),
            "va": hex64(page.va),
            "state": state,
            "frames": len(found),
            "addresses": hexes(p.va for p, _ in found[:MOST_SHOWN]),
        },
        Where(page.node.owner, page.va, page.pa, page.raw, page.entry_pa, page.node.level),
        fix=FREE_MAPPED.mend,
    )


def _free_list(kernel: Kernel, frames: FrameAllocator) -> Iterator[Finding]:
    """Frames that stand in the free list and are not free, twice, or no frames at all."""
    wrong: dict[PhysAddr, str] = {}
    for frame, count in Counter(frames.free_list).items():
        ordinal = frames.ordinal(frame)
        if count > 1:
            wrong[frame] = f"stands in the free list {count} times"
        elif ordinal is None:
            wrong[frame] = "stands in the free list and is no usable frame"
        elif ordinal >= frames.frontier:
            wrong[frame] = "stands in the free list and was never given out"
        elif frames.ledger is not None:
            slot = frames.ledger.slot(ordinal)
            if slot is not None and slot[0] == ALLOCATED:
                wrong[frame] = "stands in the free list, and the ledger has it as allocated"
    if not wrong:
        return
    frame, said = next(iter(wrong.items()))
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    evidence: dict[str, Json] = {
        "frames": [{"frame": hex64(f), "what": w} for f, w in list(wrong.items())[:MOST_SHOWN]],
        "count": len(wrong),
        "mapped": _mapped(kernel, frame),
    }
    yield Finding(
        DOUBLE,
        f"frame {hex64(frame)} {said}{more}",
        "free list",
        evidence,
        Where(pa=frame),
        fix=DOUBLE.mend,
    )


def _mapped(kernel: Kernel, frame: PhysAddr) -> list[Json]:
    """Where the frame is mapped, direct maps left out, for the evidence."""
    try:
        found = kernel.ledger.who(frame)
    except ReadError:
        return []
    mapped: list[Json] = []
    for m in found.mappings:
        space = kernel.space_of(m.root)
        if m.level == 1 and space is not None:
            mapped.append({"space": space.label, "va": hex64(m.va), "user": m.effective.u})
    return mapped[:MOST_SHOWN]
