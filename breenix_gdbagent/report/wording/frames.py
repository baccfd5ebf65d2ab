"""The sentences about physical frames, their allocator, the heap, and leaks."""

from __future__ import annotations

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.frame_states import (
    FramesLeftFacts,
    FreedTableFacts,
    FreeListFacts,
    FreeMappedFacts,
    ListFlaw,
    NoFrameFacts,
)
from breenix_gdbagent.checks.frames import BeyondFacts, MapsTableFacts, TwiceFacts
from breenix_gdbagent.checks.growth import FramesLeakFacts, HeapLeakFacts
from breenix_gdbagent.checks.heap import (
    AllocationFacts,
    CorruptFacts,
    ExhaustedFacts,
    HeapFlaw,
    UninitialisedFacts,
)
from breenix_gdbagent.report.wording.base import Words, and_more, at, phrases, tells
from breenix_gdbagent.x86.paging import LEVEL


@tells(BeyondFacts)
def beyond_ram(finding: Finding, facts: BeyondFacts) -> Words:
    """Which page leads where."""
    place = f"{at(facts.va, facts.symbol)} of {facts.space}"
    more = and_more(facts.pages, "page", of=" of that table")
    return Words(
        f"{finding.code.title}: {place} is {hex64(facts.pa)}{more}, RAM ends at "
        f"{hex64(facts.ram_end)}"
    )


@tells(MapsTableFacts)
def maps_a_table(finding: Finding, facts: MapsTableFacts) -> Words:
    """Who can reach which table."""
    who = "ring 3" if facts.user else "the kernel, outside its direct map,"
    can = "can write" if facts.writable else "can read"
    return Words(
        f"{who} {can} the page table at {hex64(facts.table)} (of {facts.owner}) through "
        f"{hex64(facts.va)} of {facts.space}{and_more(facts.pages)}"
    )


@tells(TwiceFacts)
def mapped_twice(finding: Finding, facts: TwiceFacts) -> Words:
    """In which two places a frame is writable."""
    first, second = (f"{at(m.va, m.symbol)} of {m.space}" for m in facts.mappings)
    more = and_more(facts.frames, "frame")
    return Words(f"frame {hex64(facts.frame)} is writable at {first} and at {second}{more}")


def _state(state: str) -> str:
    return "the allocator has it as free" if state == "free" else "it was never given out"


@tells(FreedTableFacts)
def table_freed(finding: Finding, facts: FreedTableFacts) -> Words:
    """Which table of whom the allocator does not have as given out."""
    table = f"the {LEVEL[facts.level].name} at {hex64(facts.table)} of {facts.space}"
    return Words(f"{table} is in use, but {_state(facts.state)}")


@tells(FreeMappedFacts)
def free_but_mapped(finding: Finding, facts: FreeMappedFacts) -> Words:
    """Which page of whom lies in a free frame."""
    page = f"{at(facts.va, facts.symbol)} of {facts.space} is mapped to frame {hex64(facts.frame)}"
    return Words(f"{page}, but {_state(facts.state)}{and_more(facts.frames)}")


@phrases(ListFlaw)
def in_the_free_list(flaw: ListFlaw) -> str:
    """What is wrong with a frame in the free list."""
    return {
        "twice": f"stands in the free list {flaw.count} times",
        "not-usable": "stands in the free list and is no usable frame",
        "never-given-out": "stands in the free list and was never given out",
        "allocated": "stands in the free list, and the ledger has it as allocated",
    }[flaw.why]


@tells(FreeListFacts)
def free_list(finding: Finding, facts: FreeListFacts) -> Words:
    """What the first frame stands there as."""
    first = facts.frames[0]
    said = f"frame {hex64(first.frame)} {in_the_free_list(first.what)}"
    return Words(said + and_more(facts.count))


@tells(FramesLeftFacts)
def none_left(finding: Finding, facts: FramesLeftFacts) -> Words:
    """How many there were."""
    return Words(
        f"all {facts.total} frames ({facts.total >> 8} MiB) are given out, and the free list is "
        "empty"
    )


@tells(NoFrameFacts)
def out_of_memory(finding: Finding, facts: NoFrameFacts) -> Words:
    """The kernel's own word."""
    return Words(f"the kernel says: {facts.said}")


@phrases(HeapFlaw)
def heap_flaw(flaw: HeapFlaw) -> str:
    """What of the heap's own structure does not hold."""
    heap = flaw.heap
    if flaw.why == "hole":
        return flaw.hole
    return {
        "bounds": f"it starts at {hex64(heap.start)} and ends at {hex64(heap.end)}",
        "next": f"its next block would come from {hex64(heap.next or 0)}, outside the heap",
        "live": f"{heap.allocations} blocks are live, and the next would come from its start",
        "sum": f"{heap.used} bytes used and {flaw.free} free make {heap.used + flaw.free}, but it "
        f"has {heap.size}",
    }[flaw.why]


@tells(CorruptFacts)
def heap_corrupt(finding: Finding, facts: CorruptFacts) -> Words:
    """Which heap, and what is broken."""
    heap = facts.heap
    place = f"{heap.kind}, {hex64(heap.start)}-{hex64(heap.end)}"
    return Words(f"the kernel heap ({place}) is broken: {heap_flaw(facts.wrong)}")


@tells(ExhaustedFacts)
def heap_exhausted(finding: Finding, facts: ExhaustedFacts) -> Words:
    """What is left of it."""
    said = f"; the kernel says: {facts.said}" if facts.said else ""
    return Words(
        f"the kernel heap has {facts.free} of {facts.heap.size} bytes left, the largest block is "
        f"{facts.largest}{said}"
    )


@tells(AllocationFacts)
def allocation_failed(finding: Finding, facts: AllocationFacts) -> Words:
    """The kernel's own word."""
    return Words(f"an allocation failed: {facts.said}")


@tells(UninitialisedFacts)
def heap_uninitialised(finding: Finding, facts: UninitialisedFacts) -> Words:
    """Why it should exist by now."""
    said = f"the kernel says: {facts.failed}" if facts.failed else "threads or processes exist"
    return Words(f"the kernel heap has no memory yet, and {said}")


@tells(FramesLeakFacts)
def frames_leaked(finding: Finding, facts: FramesLeakFacts) -> Words:
    """How many, and how many are in use."""
    return Words(
        f"{counted(facts.frames, 'frame')} ({facts.frames * 4} KiB) taken {_between(facts)} are "
        f"reached from nowhere; {facts.used} are in use"
    )


def _between(facts: FramesLeakFacts | HeapLeakFacts) -> str:
    if facts.since_stop is None or facts.until_stop is None:
        return "since the stop before"
    return f"between stop {facts.since_stop} and stop {facts.until_stop} (the same marker)"


@tells(HeapLeakFacts)
def heap_grew(finding: Finding, facts: HeapLeakFacts) -> Words:
    """By how much."""
    return Words(
        f"the heap grew by {counted(facts.bytes, 'byte')} {_between(facts)}, and no process or "
        f"thread was added; {facts.used} of {facts.size} are in use"
    )
