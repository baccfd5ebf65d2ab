"""Address ranges of a DIE: low/high, .debug_ranges (DWARF 4), .debug_rnglists (DWARF 5).

Source: DWARF 4 section 2.17.3, DWARF 5 sections 2.17.3 and 7.25.
"""

from __future__ import annotations

from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf import Die, Dwarf, Unit, guarded
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, uleb, unsigned

_MASK = (1 << 64) - 1


def spans_of(dwarf: Dwarf, die: Die) -> list[tuple[int, int]]:
    """[low, high) link addresses of a DIE's code, empty when it has none.

    Raises `InputError` that names the section that is damaged.
    """
    low = die.number(dw.DW_AT_low_pc)
    high = die.number(dw.DW_AT_high_pc)
    if low is not None and high is not None:
        form = die.forms[dw.DW_AT_high_pc]
        is_address = (
            form in (dw.DW_FORM_addr, dw.DW_FORM_addrx)
            or dw.DW_FORM_addrx1 <= form <= dw.DW_FORM_addrx4
        )
        return [(low, high if is_address else low + high)]
    where = die.number(dw.DW_AT_ranges)
    if where is None:
        return []
    if die.unit.version < 5:
        with guarded(dwarf.elf, ".debug_ranges"):
            return _ranges(dwarf.ranges, where, die.unit.low_pc)
    with guarded(dwarf.elf, ".debug_rnglists"):
        if die.forms[dw.DW_AT_ranges] == dw.DW_FORM_rnglistx:
            base, size = die.unit.rnglists_base, die.unit.offset_size
            where = base + unsigned(dwarf.rnglists, base + where * size, size)
        return _rnglist(dwarf, die.unit, where)


def _ranges(data: bytes, at: int, base: int) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    while True:
        low, high = f.U64(data, at)[0], f.U64(data, at + 8)[0]
        at += 16
        if low == high == 0:
            return spans
        if low == _MASK:
            base = high
        elif low < high:
            spans.append((base + low, base + high))


def _rnglist(dwarf: Dwarf, unit: Unit, at: int) -> list[tuple[int, int]]:
    data = dwarf.rnglists
    base = unit.low_pc
    spans: list[tuple[int, int]] = []
    while True:
        kind = data[at]
        at += 1
        if kind == dw.DW_RLE_end_of_list:
            return spans
        if kind == dw.DW_RLE_base_addressx:
            index, at = uleb(data, at)
            base = dwarf.address(unit, index)
            continue
        if kind == dw.DW_RLE_base_address:
            base, at = f.U64(data, at)[0], at + 8
            continue
        low, high, at = read_entry(dwarf, unit, data, kind, at, base)
        if low < high:
            spans.append((low, high))


def read_entry(
    dwarf: Dwarf, unit: Unit, data: bytes, kind: int, at: int, base: int
) -> tuple[int, int, int]:
    """(low, high, the offset behind) of an entry of kind DW_RLE_*, whose operands are at `at`."""
    if kind in (dw.DW_RLE_start_end, dw.DW_RLE_start_length):
        low = f.U64(data, at)[0]
        if kind == dw.DW_RLE_start_end:
            return low, f.U64(data, at + 8)[0], at + 16
        length, at = uleb(data, at + 8)
        return low, low + length, at
    first, at = uleb(data, at)
    second, at = uleb(data, at)
    if kind == dw.DW_RLE_offset_pair:
        return base + first, base + second, at
    if kind == dw.DW_RLE_startx_length:
        low = dwarf.address(unit, first)
        return low, low + second, at
    if kind == dw.DW_RLE_startx_endx:
        return dwarf.address(unit, first), dwarf.address(unit, second), at
    raise BadDwarf(f"has an unknown list entry {kind}")
