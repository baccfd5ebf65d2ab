"""Stepping over the entries of .debug_info without decoding them."""

from __future__ import annotations

from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf import Dwarf, Unit
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, uleb
from breenix_gdbagent.symbols.dwarf_plan import Plan, Row

# Forms whose first byte, below 0x80, is the whole number or the length of the block behind it.
_BLOCKS = frozenset({dw.DW_FORM_exprloc, dw.DW_FORM_block, dw.DW_FORM_block1})
_SHORT = _BLOCKS | {
    dw.DW_FORM_sdata,
    dw.DW_FORM_udata,
    dw.DW_FORM_ref_udata,
    dw.DW_FORM_strx,
    dw.DW_FORM_addrx,
    dw.DW_FORM_loclistx,
    dw.DW_FORM_rnglistx,
}


def plan_of(dwarf: Dwarf, unit: Unit) -> Plan:
    """The plan for a unit's abbreviations; units that share a table share it."""
    key = (id(unit.abbrevs), unit.offset_size)
    plan = dwarf.plans.get(key)
    if plan is None:
        plan = dwarf.plans[key] = Plan(unit.abbrevs, unit.offset_size)
    return plan


class Stepper:
    """Steps over the entries of one unit."""

    def __init__(self, dwarf: Dwarf, unit: Unit, plan: Plan) -> None:
        self.dwarf = dwarf
        self.unit = unit
        self.data = dwarf.info
        self.rows, self.steps, self.opens = plan.rows, plan.steps, plan.opens

    def behind(self, row: Row, at: int) -> int:
        """The offset behind values that do not all have a fixed length."""
        data = self.data
        for before, form in row.parts:
            at += before
            size = data[at]
            if size >= 0x80 or form not in _SHORT:
                at = f.skip_form(data, at, form, self.unit.offset_size)
            elif form in _BLOCKS:
                at += 1 + size
            else:
                at += 1
        return at + row.tail

    def skip_children(self, at: int) -> int:
        """The offset behind a list of children and all below them.

        Most of .debug_info goes through this loop: one-byte codes of fixed size take the short
        way. It can run past a damaged unit's end, which is seen when it comes back.
        """
        data, steps, opens, rows = self.data, self.steps, self.opens, self.rows
        depth = 1
        while depth:
            code = data[at]
            step = steps[code]
            if step > 0:
                at += step
                continue
            if code == 0:
                depth -= 1
                at += 1
                continue
            step = opens[code]
            if step > 0:
                at += step
                depth += 1
                continue
            code, at = uleb(data, at)
            row = rows[code]
            if row is None:
                raise BadDwarf(f"uses an undeclared abbreviation {code} near {at:#x}")
            at = at + row.size if row.size >= 0 else self.behind(row, at)
            depth += row.children
        return at
