"""What lies at an address: which stack, guard page, table, part of the kernel or process memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.addresses import NEAR_NULL, PAGE, canonical
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.adapter import Layout
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.stacks import KernelStack, slot_stack
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import effective_of, index_at, present, slot_start

NULL_PAGE = "null-page"
NON_CANONICAL = "non-canonical"
GUARD_PAGE = "guard-page"
BELOW_IST = "below-ist-stack"
KERNEL_STACK = "kernel-stack"
IST_STACK = "ist-stack"
STACK_REGION = "kernel-stack-region"
GDT, IDT, TSS = "gdt", "idt", "tss"
TABLES = frozenset((GDT, IDT, TSS))
PER_CPU = "per-cpu"
HEAP = "kernel-heap"
IMAGE = "kernel-image"
DIRECT_MAP = "direct-map"
USER_STACK = "user-stack"
USER = "user-memory"
KERNEL = "kernel-memory"
LOWER_HALF, UPPER_HALF = "lower-half", "upper-half"
MAPPED = "mapped"

LOWER_END = 1 << 47
# A push may lie this far below the stack that it ran over: a whole interrupt frame.
_BELOW = 0x1000


Part = Literal["", "ist", "beside-heap", "image", "mmap", "run", "user"]
"""Where in a region: of the stack regions that of the IST stacks, of the kernel's addresses those
beside the heap, of a process its program or its mmap region; ``run``: the stack is one that no
layout tells of, a run of pages that ends there; ``user``: ring 3 may use it."""


@dataclass(frozen=True, slots=True)
class AddressKind:
    """`name` is one of this module's constants. What is known besides, where it is about that:

    `stack`, the kernel or IST stack concerned; `free`, that nobody has that stack; `cpu`, whose
    table it is or whose current thread has the stack; `symbol` and `section` of the ELF;
    `physical`, the address behind a direct map; `space`, whose memory it is.
    """

    name: str
    stack: KernelStack | None = None
    part: Part = ""
    free: bool = False
    cpu: int | None = None
    symbol: str | None = None
    section: str | None = None
    physical: int | None = None
    space: Space | None = None


def kind_of(kernel: Kernel, va: int, root: int | None = None) -> AddressKind:
    """What `va` is, under `root` (CR3 of the stop's CPU when None). Never raises: what cannot be
    read makes the answer coarser."""
    if not canonical(va, kernel.levels):
        return AddressKind(NON_CANONICAL)
    if va < NEAR_NULL:
        return AddressKind(NULL_PAGE)
    found = _of_tables(kernel, va) or _of_stacks(kernel, va)
    if found is not None:
        return found
    if kernel.is_percpu(va):
        return AddressKind(PER_CPU)
    layout = kernel.adapter.layout
    if va in layout.heap:
        return AddressKind(HEAP)
    if in_image(kernel, va):
        image = kernel.stop.image
        section = None if image is None else image.section_of(va)
        return AddressKind(IMAGE, symbol=kernel.symbol(va), section=section)
    base = direct_map_base(kernel)
    if base is not None and base <= va < base + (1 << 40):
        return AddressKind(DIRECT_MAP, physical=va - base)
    if layout.user_end is None:
        return _by_tables(kernel, va, root)
    if va < layout.user_end and not _kernel_slot(kernel, va):
        space = kernel.space_of(root if root is not None else kernel.stop.cpu.root)
        return _user(layout, space, va)
    if layout.heap_slot is not None and index_at(va, 4) == layout.heap_slot:
        return AddressKind(KERNEL, part="beside-heap")
    return AddressKind(KERNEL)


def _by_tables(kernel: Kernel, va: int, root: int | None) -> AddressKind:
    """What the tables alone say: of a kernel whose layout is not known, whose an address is is not
    known either."""
    under = root if root is not None else kernel.stop.cpu.root
    way = None if under is None else kernel.walk(under, va)
    if way is None or way.effective is None:
        return AddressKind(LOWER_HALF if va < LOWER_END else UPPER_HALF)
    return AddressKind(MAPPED, part="user" if way.effective.u else "", physical=way.pa)


def _of_tables(kernel: Kernel, va: int) -> AddressKind | None:
    for cpu in kernel.stop.cpus:
        for name, place in ((IDT, cpu.idtr), (GDT, cpu.gdtr), (TSS, cpu.tr)):
            if place is None or not place.base:
                continue
            limit = place.limit if place.limit is not None else 0x67
            if place.base <= va <= place.base + limit:
                return AddressKind(name, cpu=cpu.index)
    return None


def _of_stacks(kernel: Kernel, va: int) -> AddressKind | None:
    for stack in (*kernel.ist, *known_stacks(kernel)):
        if stack.bottom <= va < stack.top:
            if stack.ist is not None:
                return AddressKind(IST_STACK, stack)
            return AddressKind(KERNEL_STACK, stack, cpu=_current_on(kernel, stack))
        if stack.guard is not None and stack.guard <= va < stack.guard + PAGE:
            return AddressKind(GUARD_PAGE, stack, cpu=_current_on(kernel, stack))
    for stack in kernel.ist:
        if stack.bottom - _BELOW <= va < stack.bottom:
            return AddressKind(BELOW_IST, stack)
    layout = kernel.adapter.layout
    if va in layout.kernel_stacks:
        return _slot(kernel, va)
    ist = layout.ist_stacks
    if ist and ist.start - PAGE <= va < ist.stop:
        return AddressKind(STACK_REGION, part="ist")
    return None


def known_stacks(kernel: Kernel) -> tuple[KernelStack, ...]:
    """The kernel's stacks, none where the tables that tell of them cannot be read."""
    try:
        return kernel.stacks
    except ReadError:
        return ()


def _current_on(kernel: Kernel, stack: KernelStack) -> int | None:
    """The CPU whose current thread has the stack."""
    return {p.kernel_stack_top: p.cpu for p in kernel.percpus}.get(stack.top)


def _slot(kernel: Kernel, va: int) -> AddressKind:
    """A slot of the grid that nobody maps a page of: arithmetic tells."""
    try:
        era = kernel.era
    except ReadError:
        era = None
    if era is None or va >= era.stacks_end:
        return AddressKind(STACK_REGION)
    stack = slot_stack((va - era.base) // era.slot_size, era)
    return AddressKind(GUARD_PAGE if va < stack.bottom else KERNEL_STACK, stack, free=True)


def in_image(kernel: Kernel, va: int) -> bool:
    """Whether `va` lies in the kernel's image: by its ELF, else, where the kernel has a slot of the
    PML4 of its own (Breenix: by the bootloader), by that of the gates' handlers."""
    image = kernel.stop.image
    if image is not None:
        return image.holds(va)
    if kernel.adapter.layout.user_end is None:
        return False
    try:
        slots = kernel.handler_slots
    except ReadError:
        return False
    return index_at(va, kernel.levels) in slots and va >= LOWER_END >> 8


def direct_map_base(kernel: Kernel) -> int | None:
    """Where the map of all physical memory starts: the first lower-half slot of the reference
    root, other than 0, whose first page is a large one of physical address 0. None: none found.

    The bootloader puts it into the first free slots (Breenix: ``physical_memory_offset``).
    """
    root = kernel.reference_root
    if root is None:
        return None
    for slot in range(1, 256):
        start = slot_start(slot, kernel.levels)
        found = kernel.walk(root, start)
        if found.pa == 0 and found.size != PAGE:
            return start
    return None


def _kernel_slot(kernel: Kernel, va: int) -> bool:
    """Whether the reference root has a table without U in that slot of the lower half: there the
    kernel lies, in every space (slot 0 is each process's own)."""
    root, slot = kernel.reference_root, index_at(va, kernel.levels)
    if root is None or slot == 0:
        return False
    try:
        raw = kernel.tables.table(root)[slot]
    except ReadError:
        return False
    return present(raw) and not effective_of(raw).u


def _user(layout: Layout, space: Space | None, va: int) -> AddressKind:
    if va in layout.user_stacks:
        return AddressKind(USER_STACK, space=space)
    if va in layout.user_image:
        return AddressKind(USER, part="image", space=space)
    return AddressKind(USER, part="mmap" if va in layout.mmap else "", space=space)
