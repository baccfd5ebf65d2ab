"""Page faults that Breenix lives on, recognised from the frame and one walk: cheap enough for each
of thousands (kernel/src/interrupts.rs, 2026: handle_cow_fault and the growth of user stacks)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.addresses import PAGE
from breenix_gdbagent.checks.faults.address_kind import is_user_stack
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.event import PAGE_FAULT, event_at_handler
from breenix_gdbagent.kernel.layout import COW_FLAG, USER_LIMIT, USER_STACK_GROWTH
from breenix_gdbagent.x86.cpu import Cpu
from breenix_gdbagent.x86.exceptions import PF_FETCH, PF_PRESENT, PF_USER, PF_WRITE
from breenix_gdbagent.x86.paging import Tables, VirtualMemory, W, Walk, walk


@dataclass(frozen=True, slots=True)
class Benign:
    """What the kernel lives on: a write to a page that is shared copy-on-write, or the growth of a
    user stack, `below` bytes under its mapped part."""

    how: Literal["copy-on-write", "growth"]
    below: int = 0


def recognised(cpu: Cpu, vector: int, tables: Tables, *, grows: bool) -> Benign | None:
    """What makes the fault at whose handler `cpu` stands none of the kernel's defects, None when
    that is not clear at once: the whole analysis has to say then.

    `grows`: whether this kernel grows user stacks (the 2026 era does).
    """
    mode, root, cr2 = cpu.paging, cpu.root, cpu.get("cr2")
    if vector != PAGE_FAULT or mode is None or root is None or cr2 is None:
        return None
    try:
        event = event_at_handler(cpu, vector, VirtualMemory(tables, root, mode.levels).read)
    except ReadError:
        return None
    error_code = event.error_code or 0
    way = walk(tables, root, cr2, mode.levels)
    if error_code & PF_PRESENT:
        return copy_on_write(way, error_code)
    return growth(tables, way, error_code) if grows else None


def copy_on_write(way: Walk, error_code: int) -> Benign | None:
    """Whether a write to the page of `way` is copy-on-write: its leaf is present and not writable,
    and has the mark of the fork (bit 9: kernel/src/memory/process_memory.rs)."""
    leaf = way.leaf
    asked = error_code & PF_PRESENT and error_code & PF_WRITE and not error_code & PF_FETCH
    if leaf is None or not asked or way.va >= USER_LIMIT:
        return None
    if not leaf.raw & COW_FLAG or leaf.raw & W or not all(e.raw & W for e in way.entries[:-1]):
        return None
    return Benign("copy-on-write")


def growth(tables: Tables, way: Walk, error_code: int) -> Benign | None:
    """Whether a fault where nothing is mapped is growth: ring 3 touched the 64 KiB below a mapped
    page of the user-stack region."""
    last = way.entries[-1] if way.entries else None
    if last is None or last.present or not error_code & PF_USER or error_code & PF_FETCH:
        return None
    if not is_user_stack(way.va):
        return None
    first = (way.va & -PAGE) + PAGE
    for va in range(first, min(first + USER_STACK_GROWTH, USER_LIMIT), PAGE):
        if walk(tables, way.root, va).mapped:
            return Benign("growth", va - way.va)
    return None
