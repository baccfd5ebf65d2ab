"""The kernel heap of both eras: its bounds, its list, what is left of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.errors import ReadError, ValueCorrupt
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.allocators import Heap, Hole, holes_of
from breenix_gdbagent.kernel.running import call_names
from breenix_gdbagent.kernel.view import Kernel

_HEAP = "kernel/src/memory/heap.rs"

EXHAUSTED = declare(
    "heap.exhausted",
    "error",
    "the kernel heap is used up",
    arises="The 2025 heap bumps a pointer through 1 MiB and starts over only when nothing is left "
    "allocated, so that every block costs for good (Breenix 42d27c04, d84d155c); a list heap runs "
    "out by leaks or fragments. The next allocation panics with `allocation error`.",
    confirm="heap shows used, free and the largest hole.",
    mend="Raise HEAP_SIZE, or find who keeps allocating (heap.leak between two stops).",
    see=(_HEAP,),
)
CORRUPT = declare(
    "heap.corrupt",
    "error",
    "the kernel heap's own structure is broken",
    arises="Something wrote into free memory or past the end of its block: a hole's size or next "
    "pointer is no longer one, or the sum does not come out.",
    confirm="print ALLOCATOR; heap lists the holes up to the broken one.",
    mend="Look at what lies just below the broken hole: the block before it was overrun, or it was "
    "used after it was freed.",
    see=(_HEAP,),
)
UNINITIALISED = declare(
    "heap.uninitialised",
    "error",
    "the kernel allocates before its heap exists",
    arises="The heap's bounds are 0 although threads or processes exist, or an allocation failed: "
    "heap::init was not called, or later than its first user.",
    confirm="print ALLOCATOR: the bounds are 0.",
    mend="Call memory::init before anything allocates.",
    see=(_HEAP, "kernel/src/memory/mod.rs"),
)

_FAILED = re.compile(r"allocation error|memory allocation of \d+ bytes failed")
SMALLEST = 64
"""Bytes: a heap that cannot give so many is used up, whatever was asked for."""
ALLOC_FAILURES = ("handle_alloc_error", "alloc_error_handler", "__rust_alloc_error_handler",
                  "rust_oom", "__rdl_alloc_error_handler")  # fmt: skip


def check(kernel: Kernel) -> Iterator[Finding]:
    """The heap's account of itself. While its lock is taken the account may be half written."""
    if kernel.master is None:
        raise NotChecked(kernel.no_master)
    failed = allocation_failed(kernel)
    try:
        heap = kernel.books.heap
    except ReadError:
        if failed:
            yield _failed(failed)
        raise
    if not heap.initialised:
        if failed or _needed(kernel):
            yield _uninitialised(heap, failed)
        return
    if heap.locked:
        raise NotChecked("the heap's lock is taken: its list may be half changed")
    holes: list[Hole] = []
    wrong = _bump_wrong(heap) if heap.kind == "bump" else _list_wrong(kernel, heap, holes)
    if wrong:
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


def _bump_wrong(heap: Heap) -> str:
    assert heap.next is not None
    if heap.start >= heap.end:
        return f"it starts at {hex64(heap.start)} and ends at {hex64(heap.end)}"
    if not heap.start <= heap.next <= heap.end:
        return f"its next block would come from {hex64(heap.next)}, outside the heap"
    if heap.allocations and heap.next == heap.start:
        return f"{heap.allocations} blocks are live, and the next would come from its start"
    return ""


def _list_wrong(kernel: Kernel, heap: Heap, holes: list[Hole]) -> str:
    if heap.start >= heap.end:
        return f"it starts at {hex64(heap.start)} and ends at {hex64(heap.end)}"
    try:
        for hole in holes_of(kernel.books.values, heap):
            holes.append(hole)
    except ValueCorrupt as broken:
        return broken.what
    total = sum(hole.size for hole in holes) + heap.used + heap.pending
    if total != heap.size:
        return (
            f"{heap.used} bytes used and {total - heap.used} free make {total}, but it has "
            f"{heap.size}"
        )
    return ""


def _facts(heap: Heap) -> dict[str, Json]:
    facts: dict[str, Json] = {
        "kind": heap.kind,
        "start": hex64(heap.start),
        "end": hex64(heap.end),
        "size": heap.size,
        "used": heap.used,
    }
    if heap.next is not None:
        facts |= {"next": hex64(heap.next), "allocations": heap.allocations}
    return facts


def _corrupt(heap: Heap, wrong: str, holes: list[Hole]) -> Finding:
    last = holes[-1] if holes else None
    return Finding(
        CORRUPT,
        f"the kernel heap ({heap.kind}, {hex64(heap.start)}-{hex64(heap.end)}) is broken: {wrong}",
        "heap",
        {
            **_facts(heap),
            "wrong": wrong,
            "good_holes": len(holes),
            "last_good_hole": hex64(last.at) if last is not None else None,
        },
        Where(va=last.at if last is not None else heap.start),
        fix=CORRUPT.mend,
    )


def _exhausted(heap: Heap, largest: int, holes: int, failed: str) -> Finding:
    said = f"; the kernel says: {failed}" if failed else ""
    return Finding(
        EXHAUSTED,
        f"the kernel heap has {heap.free} of {heap.size} bytes left, the largest block is "
        f"{largest}{said}",
        "heap",
        {**_facts(heap), "free": heap.free, "largest": largest, "holes": holes, "said": failed},
        Where(va=heap.start),
        confidence="proved" if failed or largest < SMALLEST else "likely",
        fix=EXHAUSTED.mend,
    )


def _failed(failed: str) -> Finding:
    """By the kernel's word alone: the heap's own account cannot be read."""
    return Finding(
        EXHAUSTED,
        f"an allocation failed: {failed}",
        "heap",
        {"said": failed},
        confidence="likely",
        fix=EXHAUSTED.mend,
    )


def _uninitialised(heap: Heap, failed: str) -> Finding:
    said = f"the kernel says: {failed}" if failed else "threads or processes exist"
    return Finding(
        UNINITIALISED,
        f"the kernel heap has no memory yet, and {said}",
        "heap",
        _facts(heap),
        fix=UNINITIALISED.mend,
    )


def heap_of(kernel: Kernel) -> Heap | None:
    """The heap, None where it cannot be read or does not exist yet."""
    try:
        heap = kernel.books.heap
    except ReadError:
        return None
    return heap if heap.initialised else None
