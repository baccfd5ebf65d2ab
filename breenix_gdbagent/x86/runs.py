"""Stretches of an address space whose virtual and physical addresses both run on."""

from __future__ import annotations

from breenix_gdbagent.addresses import PhysAddr, VirtAddr, sign_extended
from breenix_gdbagent.arch.spaces import Stretch
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.x86.paging import ADDRESS, LEVEL, PS, P, Tables

Run = Stretch


def mapped_runs(tables: Tables, root: int, levels: int = 4) -> list[Run]:
    """(virtual, physical, bytes) of all that `root` maps, each table followed once.

    Of several slots that name one table the lowest is followed: Breenix has 253 of them. Runs of
    small pages come first, in order of address, then those of large pages (the direct map). Tables
    that cannot be read, and entries with reserved bits set, lead nowhere.
    """
    small: list[Run] = []
    large: list[Run] = []
    seen = {root & ADDRESS | levels}

    def visit(frame: int, number: int, base: int) -> None:
        try:
            table = tables.table(frame)
        except Unreadable:
            return
        level = LEVEL[number]
        for index, raw in enumerate(table.tolist()):
            if not raw & P:
                continue
            va = base | index << level.shift
            if number == 1 or raw & PS:
                if not raw & (level.reserved | level.reserved_always):
                    pa = raw & ADDRESS & -(1 << level.shift)
                    _add(small if number == 1 else large, va, pa, 1 << level.shift)
            else:
                key = raw & ADDRESS | number - 1
                if key not in seen:
                    seen.add(key)
                    visit(raw & ADDRESS, number - 1, va)

    visit(root & ADDRESS, levels, 0)
    return [(sign_extended(va, levels), pa, length) for va, pa, length in small + large]


def _add(runs: list[Run], va: int, pa: int, size: int) -> None:
    if runs:
        last_va, last_pa, length = runs[-1]
        if last_va + length == va and last_pa + length == pa:
            runs[-1] = (last_va, last_pa, length + size)
            return
    runs.append((VirtAddr(va), PhysAddr(pa), size))
