"""Which physical pages a snapshot keeps: page tables, the kernel, or all of RAM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from breenix_gdbagent.addresses import PAGE, page_base
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.layout import HEAP_SLOT
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.memory.recording import RecordingMemory
from breenix_gdbagent.x86.cpu import Cpu
from breenix_gdbagent.x86.paging import ADDRESS, PS, P, translate

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
    seen: set[tuple[int, int]] = set()

    def below(frame: int, level: int) -> Iterator[int]:
        if (frame, level) in seen:
            return
        seen.add((frame, level))
        try:
            table = kernel.tables.table(frame)
        except ReadError:
            return
        yield frame
        if level > 1:
            for raw in set(table.tolist()):
                if raw & P and not (raw & PS and level <= 3):
                    yield from below(raw & ADDRESS, level - 1)

    for space in kernel.spaces:
        yield from below(space.root, kernel.levels)


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
        rsp = cpu.get("rsp")
        if rsp is not None:
            around = range(page_base(rsp), page_base(rsp) + 2 * PAGE, PAGE)
            for root in _roots(kernel, cpu):
                yield from _frames_of(kernel, root, around)


def _kernel_image(kernel: Kernel) -> Iterator[int]:
    """Pages of the slots that the kernel runs on, the direct map of all RAM left out."""
    root = kernel.reference_root
    if root is None:
        return
    slots = {HEAP_SLOT}
    for cpu in kernel.stop.cpus:
        for place in (cpu.idtr, cpu.gdtr, cpu.tr):
            if place is not None and place.base:
                slots.add(place.base >> 39 & 0x1FF)
        if cpu.cpl == 0:
            slots.add(cpu.rip >> 39 & 0x1FF)
    for slot in sorted(slots):
        yield from _small_pages(kernel, root, slot)


def _small_pages(kernel: Kernel, root: int, slot: int) -> Iterator[int]:
    """Frames of the 4 KiB leaves below one top-level slot (large pages are the direct map)."""
    table = kernel.tables.table(root)
    budget = LARGEST_REGION // PAGE

    def below(frame: int, level: int) -> Iterator[int]:
        try:
            entries = kernel.tables.table(frame)
        except ReadError:
            return
        for raw in entries:
            if not raw & P or (raw & PS and level > 1):
                continue
            if level == 1:
                yield raw & ADDRESS
            else:
                yield from below(raw & ADDRESS, level - 1)

    if table[slot] & P:
        for count, frame in enumerate(below(table[slot] & ADDRESS, kernel.levels - 1)):
            if count >= budget:
                return
            yield frame


def _user(kernel: Kernel) -> Iterator[int]:
    """User pages around the RIP and RSP of each CPU and of the interrupted context."""
    contexts = [(c.root, (c.get("rip"), c.get("rsp"))) for c in kernel.stop.cpus]
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
