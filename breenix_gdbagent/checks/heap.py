"""The kernel heap of both eras: its bounds, its list, what is left of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.checks.facts import ASIDE, SPREAD, Facts
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.checks.reasons import NotRead, State
from breenix_gdbagent.errors import ReadError, ValueCorrupt
from breenix_gdbagent.kernel.allocators import Heap, Hole, holes_of
from breenix_gdbagent.kernel.running import call_names
from breenix_gdbagent.kernel.view import Kernel

EXHAUSTED = declare(
    "heap.exhausted",
    "error",
    "the kernel heap is used up",
    arises="Leaks or fragments, or a heap that is too small: the next allocation fails.",
    confirm="heap shows used, free and the largest hole.",
    mend="Make the heap larger, or find who keeps allocating (heap.leak between two stops).",
)
CORRUPT = declare(
    "heap.corrupt",
    "error",
    "the kernel heap's own structure is broken",
    arises="Something wrote into free memory or past the end of its block: a hole's size or next "
    "pointer is no longer one, or the sum does not come out.",
    confirm="print the allocator's static; heap lists the holes up to the broken one.",
    mend="Look at what lies just below the broken hole: the block before it was overrun, or it was "
    "used after it was freed.",
)
UNINITIALISED = declare(
    "heap.uninitialised",
    "error",
    "the kernel allocates before its heap exists",
    arises="The heap's bounds are 0 although threads or processes exist, or an allocation failed: "
    "it was initialised later than its first user, or never.",
    confirm="print the allocator's static: the bounds are 0.",
    mend="Initialise the heap before anything allocates.",
)

_FAILED = re.compile(r"allocation error|memory allocation of \d+ bytes failed")
SMALLEST = 64
"""Bytes: a heap that cannot give so many is used up, whatever was asked for."""
ALLOC_FAILURES = ("handle_alloc_error", "alloc_error_handler", "__rust_alloc_error_handler",
                  "rust_oom", "__rdl_alloc_error_handler")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BumpFacts(Facts):
    """A bump heap's next block, and how many are live."""

    next: VirtAddr
    allocations: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeapFacts(Facts):
    """The heap as it has itself; sizes in bytes."""

    kind: str
    start: VirtAddr
    end: VirtAddr
    size: int
    used: int
    bump: Annotated[BumpFacts | None, SPREAD]


@dataclass(frozen=True, slots=True)
class HeapFlaw:
    """What of a heap's structure does not hold: its bounds, where the ``next`` block comes from,
    that blocks are ``live`` of which none was given, a ``hole`` (what its reader says of it), or
    the ``sum`` of what is used and the `free` bytes that were found."""

    why: Literal["bounds", "next", "live", "hole", "sum"]
    heap: Heap
    free: int = 0
    hole: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptFacts(Facts):
    """A broken heap, and the last hole of its list that was still one."""

    heap: Annotated[HeapFacts, SPREAD]
    wrong: HeapFlaw
    good_holes: int
    last_good_hole: VirtAddr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExhaustedFacts(Facts):
    """What is left; `said` is the kernel's word that an allocation failed, else empty."""

    heap: Annotated[HeapFacts, SPREAD]
    free: int
    largest: int
    holes: int
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationFacts(Facts):
    """The kernel's word that an allocation failed, where its account cannot be read."""

    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UninitialisedFacts(Facts):
    """`failed` is the kernel's word that an allocation failed, else empty."""

    heap: Annotated[HeapFacts, SPREAD]
    failed: Annotated[str, ASIDE]


def check(kernel: Kernel) -> Iterator[Finding]:
    """The heap's account of itself. While its lock is taken the account may be half written."""
    if kernel.master is None:
        raise NotChecked(NotRead(kernel.no_master))
    failed = allocation_failed(kernel)
    try:
        heap = kernel.structures.heap
    except ReadError:
        if failed:
            said = AllocationFacts(said=failed)
            yield Finding(EXHAUSTED, "heap", said, confidence="likely")
        raise
    if not heap.initialised:
        if failed or _needed(kernel):
            bare = UninitialisedFacts(heap=_facts(heap), failed=failed)
            yield Finding(UNINITIALISED, "heap", bare)
        return
    if heap.locked:
        raise NotChecked(State.HEAP_LOCKED)
    holes: list[Hole] = []
    wrong = _bump_wrong(heap) if heap.kind == "bump" else _list_wrong(kernel, heap, holes)
    if wrong is not None:
        yield _corrupt(heap, wrong, holes)
        return
    largest = heap.free if heap.kind == "bump" else max((h.size for h in holes), default=0)
    if failed or largest < SMALLEST:
        yield _exhausted(heap, largest, len(holes), failed)


def allocation_failed(kernel: Kernel) -> str:
    """The kernel's own word that an allocation failed, empty when it has not said so."""
    text = kernel.panic_message or ""
    if _FAILED.search(text):
        return text.strip()
    for name in call_names(kernel):
        if name.rsplit("::", 1)[-1] in ALLOC_FAILURES:
            return f"{name} is running"
    return ""


def _needed(kernel: Kernel) -> bool:
    """Whether anything lives on the heap already."""
    return any(block.current_thread for block in kernel.percpus) or any(
        space.role == "process" for space in kernel.spaces
    )


def _bump_wrong(heap: Heap) -> HeapFlaw | None:
    assert heap.next is not None
    if heap.start >= heap.end:
        return HeapFlaw("bounds", heap)
    if not heap.start <= heap.next <= heap.end:
        return HeapFlaw("next", heap)
    if heap.allocations and heap.next == heap.start:
        return HeapFlaw("live", heap)
    return None


def _list_wrong(kernel: Kernel, heap: Heap, holes: list[Hole]) -> HeapFlaw | None:
    if heap.start >= heap.end:
        return HeapFlaw("bounds", heap)
    try:
        for hole in holes_of(kernel.structures.values, heap):
            holes.append(hole)
    except ValueCorrupt as broken:
        return HeapFlaw("hole", heap, hole=broken.what)
    free = sum(hole.size for hole in holes) + heap.pending
    return HeapFlaw("sum", heap, free) if free + heap.used != heap.size else None


def _facts(heap: Heap) -> HeapFacts:
    bump = None
    if heap.next is not None:
        bump = BumpFacts(next=heap.next, allocations=heap.allocations)
    return HeapFacts(
        kind=heap.kind, start=heap.start, end=heap.end, size=heap.size, used=heap.used, bump=bump
    )


def _corrupt(heap: Heap, wrong: HeapFlaw, holes: list[Hole]) -> Finding:
    last = holes[-1] if holes else None
    facts = CorruptFacts(
        heap=_facts(heap),
        wrong=wrong,
        good_holes=len(holes),
        last_good_hole=VirtAddr(last.at) if last is not None else None,
    )
    return Finding(CORRUPT, "heap", facts, Where(va=last.at if last is not None else heap.start))


def _exhausted(heap: Heap, largest: int, holes: int, failed: str) -> Finding:
    facts = ExhaustedFacts(
        heap=_facts(heap), free=heap.free, largest=largest, holes=holes, said=failed
    )
    sure = failed or largest < SMALLEST
    where = Where(va=heap.start)
    return Finding(EXHAUSTED, "heap", facts, where, confidence="proved" if sure else "likely")
