"""Stepping over .debug_info entry by entry, as fast as Python goes, without decoding them."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols.dwarf import Dwarf, Unit
from breenix_gdbagent.symbols.dwarf_abbrev import Abbrev
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, uleb

SKIP, SCOPE, TYPE, STATIC, FUNCTION, BODY = range(6)
_KINDS = {
    f.T_NAMESPACE: SCOPE,
    f.T_STRUCT: TYPE,
    f.T_UNION: TYPE,
    f.T_ENUMERATION: TYPE,
    f.T_BASE: TYPE,
    f.T_VARIABLE: STATIC,
    f.T_SUBPROGRAM: FUNCTION,
    # Variants hold the struct of their payload, whose path is the enum's.
    f.T_COMPILE_UNIT: BODY,
    f.T_VARIANT_PART: BODY,
    f.T_VARIANT: BODY,
}
# Forms whose first byte, below 0x80, is the whole number or the length of the block behind it.
_BLOCKS = frozenset({f.F_EXPRLOC, f.F_BLOCK, f.F_BLOCK1})
_SHORT = _BLOCKS | {
    f.F_SDATA,
    f.F_UDATA,
    f.F_REF_UDATA,
    f.F_STRX,
    f.F_ADDRX,
    f.F_LOCLISTX,
    f.F_RNGLISTX,
}


@dataclass(frozen=True, slots=True)
class Row:
    """How the pass treats one abbreviation.

    `size` is that of all attribute values, -1 when it varies: then `parts` are (fixed bytes
    before, form) of each varying value and `tail` the fixed bytes behind the last. `declared`: it
    is only a declaration; `coded`: it has code; `name` is where its name stands, and the form.
    """

    kind: int
    size: int
    children: int
    parts: tuple[tuple[int, int], ...]
    tail: int
    abbrev: Abbrev
    declared: bool
    coded: bool
    name: tuple[int, int] | None


class Plan:
    """The rows of one abbreviation table, shared by the units that use it.

    By the first byte of an entry: `steps` is how far it is to the next one, `opens` the same for
    entries with children; 0 where that takes thought.
    """

    def __init__(self, abbrevs: list[Abbrev | None], offset_size: int) -> None:
        self.rows = [_row(a, offset_size) if a else None for a in abbrevs]
        self.steps = [0] * 256
        self.opens = [0] * 256
        for code, row in enumerate(self.rows[:0x80]):
            if row is not None and row.size >= 0:
                if row.children:
                    self.opens[code] = row.size + 1
                elif row.kind in (SKIP, BODY):
                    self.steps[code] = row.size + 1


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


def _row(abbrev: Abbrev, offset_size: int) -> Row:
    parts = []
    fixed = 0
    for _, form, _ in abbrev.specs:
        size = f.fixed_size(form, offset_size)
        if size is None:
            parts.append((fixed, form))
            fixed = 0
        else:
            fixed += size
    kind = _KINDS.get(abbrev.tag, SKIP)
    given = {attribute for attribute, _, _ in abbrev.specs}
    return Row(
        kind,
        abbrev.size,
        int(abbrev.children),
        tuple(parts),
        fixed,
        abbrev,
        f.A_DECLARATION in given,
        f.A_LOW_PC in given or f.A_RANGES in given,
        abbrev.offsets.get(f.A_NAME),
    )
