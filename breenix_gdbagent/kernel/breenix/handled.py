"""Page faults that Breenix lives on (kernel/src/interrupts.rs, 2026: handle_cow_fault and the
growth of user stacks)."""

from __future__ import annotations

from breenix_gdbagent.addresses import PAGE
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.kernel.adapter import Handled
from breenix_gdbagent.kernel.breenix.layout import COW_FLAG, LAYOUT, USER_LIMIT, USER_STACK_GROWTH
from breenix_gdbagent.x86.exceptions import PF_FETCH, PF_PRESENT, PF_USER, PF_WRITE
from breenix_gdbagent.x86.paging import W, walk


def handled(tables: Tables, way: Walk, error_code: int, *, grows: bool) -> Handled | None:
    """See `Adapter.handled`."""
    if error_code & PF_PRESENT:
        return copy_on_write(way, error_code)
    return growth(tables, way, error_code) if grows else None


def copy_on_write(way: Walk, error_code: int) -> Handled | None:
    """Whether a write to the page of `way` is copy-on-write: its leaf is present and not writable,
    and has the mark of the fork (bit 9: kernel/src/memory/process_memory.rs)."""
    leaf = way.leaf
    asked = error_code & PF_PRESENT and error_code & PF_WRITE and not error_code & PF_FETCH
    if leaf is None or not asked or way.va >= USER_LIMIT:
        return None
    if not leaf.raw & COW_FLAG or leaf.raw & W or not all(e.raw & W for e in way.entries[:-1]):
        return None
    return Handled("copy-on-write")


def growth(tables: Tables, way: Walk, error_code: int) -> Handled | None:
    """Whether a fault where nothing is mapped is growth: ring 3 touched the 64 KiB below a mapped
    page of the user-stack region."""
    last = way.entries[-1] if way.entries else None
    if last is None or last.present or not error_code & PF_USER or error_code & PF_FETCH:
        return None
    if way.va not in LAYOUT.user_stacks:
        return None
    first = (way.va & -PAGE) + PAGE
    for va in range(first, min(first + USER_STACK_GROWTH, USER_LIMIT), PAGE):
        if walk(tables, way.root, va).mapped:
            return Handled("growth", va - way.va)
    return None
