"""Location lists: the one expression that says where a variable is at one address.

Source: DWARF 4 section 2.6.2 (.debug_loc), DWARF 5 sections 2.6.2 and 7.29 (.debug_loclists).
"""

from __future__ import annotations

from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf import Die, Dwarf, Unit, guarded
from breenix_gdbagent.symbols.dwarf_forms import uleb, unsigned
from breenix_gdbagent.symbols.ranges import read_entry

_MASK = (1 << 64) - 1


def location_at(dwarf: Dwarf, die: Die, link: int) -> bytes | None:
    """The location expression of a variable while execution is at a link address; None where it has
    none there. Raises `InputError` that names the section that is damaged."""
    expression = die.block(dw.DW_AT_location)
    if expression is not None:
        return expression or None
    where = die.number(dw.DW_AT_location)
    if where is None:
        return None
    if die.unit.version < 5:
        with guarded(dwarf.elf, ".debug_loc"):
            return _loc(dwarf.locations, where, die.unit.low_pc, link)
    with guarded(dwarf.elf, ".debug_loclists"):
        if die.forms[dw.DW_AT_location] == dw.DW_FORM_loclistx:
            base, size = die.unit.loclists_base, die.unit.offset_size
            where = base + unsigned(dwarf.loclists, base + where * size, size)
        return _loclist(dwarf, die.unit, where, link)


def _loc(data: bytes, at: int, base: int, link: int) -> bytes | None:
    while True:
        low, high = f.U64(data, at)[0], f.U64(data, at + 8)[0]
        at += 16
        if low == high == 0:
            return None
        if low == _MASK:
            base = high
            continue
        size = f.U16(data, at)[0]
        at += 2 + size
        if base + low <= link < base + high:
            return _cut(data, at - size, size)


def _loclist(dwarf: Dwarf, unit: Unit, at: int, link: int) -> bytes | None:
    data, base = dwarf.loclists, unit.low_pc
    default: bytes | None = None
    while True:
        kind = data[at]
        at += 1
        if kind == dw.DW_LLE_end_of_list:
            return default
        if kind == dw.DW_LLE_base_addressx:
            index, at = uleb(data, at)
            base = dwarf.address(unit, index)
            continue
        if kind == dw.DW_LLE_base_address:
            base, at = f.U64(data, at)[0], at + 8
            continue
        low = high = 0
        if kind != dw.DW_LLE_default_location:
            # The kinds of range lists, but for the default's, which stands between them.
            as_range = kind - (kind > dw.DW_LLE_default_location)
            low, high, at = read_entry(dwarf, unit, data, as_range, at, base)
        size, at = uleb(data, at)
        expression = _cut(data, at, size)
        at += size
        if kind == dw.DW_LLE_default_location:
            default = expression
        elif low <= link < high:
            return expression


def _cut(data: bytes, at: int, size: int) -> bytes:
    found = data[at : at + size]
    if len(found) != size:
        raise IndexError
    return found
