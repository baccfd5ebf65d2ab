"""Abbreviation tables: what each kind of DIE in a unit looks like (DWARF 5 section 7.5.3)."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, uleb

# Compilers number abbreviations from 1 without gaps: a table beyond this is damage.
_MAX_CODE = 1 << 16


@dataclass(frozen=True, slots=True)
class Abbrev:
    """One declaration of .debug_abbrev. `specs` are (attribute, form, implicit constant).

    `size` is the length of all its attribute values in bytes, -1 when that depends on the data.
    `offsets` has the place of each attribute that is preceded by fixed forms only.
    """

    tag: int
    children: bool
    specs: tuple[tuple[int, int, int], ...]
    size: int
    offsets: dict[int, tuple[int, int]]


def read_abbrevs(
    data: bytes, at: int, offset_size: int, first_only: bool = False
) -> list[Abbrev | None]:
    """The table at `at`, indexed by code; codes that it lacks are None.

    `first_only` stops behind the first declaration, which is that of a unit's root.

    Raises IndexError and `BadDwarf` on damage. Nearly every number is one byte: a kernel has
    tens of thousands of them, so the long form is the exception here.
    """
    table: list[Abbrev | None] = [None]
    while True:
        code, at = uleb(data, at)
        if code == 0 or (first_only and len(table) > 1):
            return table
        tag, at = uleb(data, at)
        children = data[at] != 0
        at += 1
        specs = []
        while True:
            attribute, form = data[at], data[at + 1]
            if attribute < 0x80 and form < 0x80:
                at += 2
            else:
                attribute, at = uleb(data, at)
                form, at = uleb(data, at)
            implicit = 0
            if form == dw.DW_FORM_implicit_const:
                implicit, at = f.sleb(data, at)
            if attribute == 0 and form == 0:
                break
            if form not in f.FORMS:
                raise BadDwarf(f"declares an unknown form {form:#x}")
            specs.append((attribute, form, implicit))
        if code > _MAX_CODE:
            raise BadDwarf(f"numbers an abbreviation {code}")
        table.extend([None] * (code + 1 - len(table)))
        table[code] = _abbrev(tag, children, tuple(specs), offset_size)


def _abbrev(
    tag: int, children: bool, specs: tuple[tuple[int, int, int], ...], offset_size: int
) -> Abbrev:
    size = 0
    offsets: dict[int, tuple[int, int]] = {}
    for attribute, form, _ in specs:
        if size >= 0:
            offsets[attribute] = (size, form)
            this = f.fixed_size(form, offset_size)
            size = -1 if this is None else size + this
    return Abbrev(tag, children, specs, size, offsets)
