"""Per abbreviation, what a pass over .debug_info has to step over: worked out once."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf_abbrev import Abbrev

SKIP, SCOPE, TYPE, STATIC, FUNCTION, BODY = range(6)
_KINDS = {
    dw.DW_TAG_namespace: SCOPE,
    dw.DW_TAG_structure_type: TYPE,
    dw.DW_TAG_union_type: TYPE,
    dw.DW_TAG_enumeration_type: TYPE,
    dw.DW_TAG_base_type: TYPE,
    dw.DW_TAG_variable: STATIC,
    dw.DW_TAG_subprogram: FUNCTION,
    # Variants hold the struct of their payload, whose path is the enum's.
    dw.DW_TAG_compile_unit: BODY,
    dw.DW_TAG_variant_part: BODY,
    dw.DW_TAG_variant: BODY,
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
        dw.DW_AT_declaration in given,
        dw.DW_AT_low_pc in given or dw.DW_AT_ranges in given,
        abbrev.offsets.get(dw.DW_AT_name),
    )
