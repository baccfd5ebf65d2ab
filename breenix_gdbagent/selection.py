"""Which physical pages a snapshot keeps: page tables, the kernel, or all of RAM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from breenix_gdbagent.addresses import PAGE, page_base
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.memory.recording import RecordingMemory
from breenix_gdbagent.x86.pages import pages
from breenix_gdbagent.x86.paging import index_at, slot_start, span, translate

TOP_PAGES = 4
USER_PAGES_AROUND = 2
LARGEST_REGION = 64 << 20


def pages_to_keep(kernel: Kernel, memory: str) -> list[int] | None:
    """Frame addresses, sorted; None for all of RAM. `memory` is tables, kernel or all. What an
    examination of a recorded stop has read is always kept, so that it can be made again."""
    if memory == "all":
        return None
    keep = set(_tables(kernel))
    if isinstance(kernel.stop.memory, RecordingMemory):
        keep.update(kernel.stop.memory.touched)
    keep.update(_descriptors(kernel))
    keep.update(_stacks(kernel, TOP_PAGES if memory == "tables" else None))
    if memory == "kernel":
        keep.update(_kernel_image(kernel))
        keep.update(_user(kernel))
    return sorted(keep)


def _tables(kernel: Kernel) -> Iterator[int]:
    """Every table frame of every root, user halves of dead roots included as far as readable."""
    for frame in kernel.merged.table_frames(space.root for space in kernel.spaces):
        try:
            kernel.tables.table(frame)
        except ReadError:
            continue
        yield frame


def _frames_of(kernel: Kernel, root: int, addresses: Iterable[int]) -> Iterator[int]:
    for va in addresses:
        try:
            yield page_base(translate(kernel.tables, root, va, kernel.levels)[0])
        except ReadError:
            continue


def _roots(kernel: Kernel, cpu: Cpu) -> list[int]:
    return [r for r in (cpu.root, kernel.reference_root) if r is not None]


def _descriptors(kernel: Kernel) -> Iterator[int]:
    """IDT, GDT, TSS and per-CPU block of every CPU."""
    for cpu in kernel.stop.cpus:
        spans = [
            (place.base, (place.limit or 0) + 1)
            for place in (cpu.idtr, cpu.gdtr, cpu.tr)
            if place is not None
        ]
        block = kernel.percpu_of(cpu)
        if block is not None:
            spans.append((block.base, 256))
        for base, length in spans:
            pages = range(page_base(base), base + min(length, 0x4000), PAGE)
            for root in _roots(kernel, cpu):
                yield from _frames_of(kernel, root, pages)


def _stacks(kernel: Kernel, top_pages: int | None) -> Iterator[int]:
    """The top pages of each stack (all of them with None), in every audited space, and the pages
    around each CPU's RSP wherever that is."""
    for space in kernel.audited:
        for stack in (*kernel.stacks, *kernel.ist):
            pages = stack.pages if top_pages is None else stack.pages[-top_pages:]
            yield from _frames_of(kernel, space.root, pages)
    for cpu in kernel.stop.cpus:
        rsp = cpu.stack
        if rsp is not None:
            around = range(page_base(rsp), page_base(rsp) + 2 * PAGE, PAGE)
            for root in _roots(kernel, cpu):
                yield from _frames_of(kernel, root, around)


def _kernel_image(kernel: Kernel) -> Iterator[int]:
    """Pages of the slots that the kernel runs on, the direct map of all RAM left out."""
    root = kernel.reference_root
    if root is None:
        return
    heap = kernel.adapter.layout.heap_slot
    slots = set() if heap is None else {heap}
    for cpu in kernel.stop.cpus:
        for place in (cpu.idtr, cpu.gdtr, cpu.tr):
            if place is not None and place.base:
                slots.add(index_at(place.base, kernel.levels))
        if cpu.cpl == 0:
            slots.add(index_at(cpu.rip, kernel.levels))
    for slot in sorted(slots):
        yield from _small_pages(kernel, root, slot)


def _small_pages(kernel: Kernel, root: int, slot: int) -> Iterator[int]:
    """Frames of the 4 KiB leaves below one top-level slot (large pages are the direct map)."""
    start = slot_start(slot, kernel.levels)
    last = start + span(kernel.levels) - 1
    small = (p for p in pages(kernel.tables, root, kernel.levels, start, last) if p.level == 1)
    yield from (page.frame for page in islice(small, LARGEST_REGION // PAGE))


def _user(kernel: Kernel) -> Iterator[int]:
    """User pages around the RIP and RSP of each CPU and of the interrupted context."""
    contexts = [(c.root, (c.at, c.stack)) for c in kernel.stop.cpus]
    try:
        event = kernel.event
    except ReadError:
        event = None
    if event is not None:
        contexts.append((kernel.stop.cpu.root, (event.rip, event.rsp)))
    for root, addresses in contexts:
        for address in addresses:
            if root is None or address is None:
                continue
            base = page_base(address)
            span = range(
                max(0, base - USER_PAGES_AROUND * PAGE), base + (USER_PAGES_AROUND + 1) * PAGE, PAGE
            )
            yield from _frames_of(kernel, root, span)
