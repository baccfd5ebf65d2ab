"""One linear pass over .debug_info: where each type, static and function is. No DIE tree.

Names are the qualified paths that the nesting of namespaces and types gives
(`core::option::Option<u64>::Some`). What lies inside functions (locals, inlined calls) is stepped
over; a function's own inlines are read when somebody asks for its lines.
Source: DWARF 4 and 5, chapters 2 to 5; what rustc emits was read off readelf.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache

from breenix_gdbagent.errors import SymbolNotFound
from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols.dwarf import Die, Dwarf, Unit, guarded
from breenix_gdbagent.symbols.dwarf_abbrev import Abbrev
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, uleb

_SKIP, _SCOPE, _TYPE, _STATIC, _FUNCTION, _BODY = range(6)
_KINDS = {
    f.T_NAMESPACE: _SCOPE,
    f.T_STRUCT: _TYPE,
    f.T_UNION: _TYPE,
    f.T_ENUMERATION: _TYPE,
    f.T_BASE: _TYPE,
    f.T_VARIABLE: _STATIC,
    f.T_SUBPROGRAM: _FUNCTION,
    # Variants hold the struct of their payload, whose path is the enum's.
    f.T_COMPILE_UNIT: _BODY,
    f.T_VARIANT_PART: _BODY,
    f.T_VARIANT: _BODY,
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
_MAX_DEPTH = 256


@dataclass(frozen=True, slots=True)
class Row:
    """How the pass treats one abbreviation.

    `size` is that of all attribute values, -1 when it varies: then `parts` are (fixed bytes
    before, form) of each varying value and `tail` the fixed bytes behind the last.
    """

    kind: int
    size: int
    children: int
    parts: tuple[tuple[int, int], ...]
    tail: int
    abbrev: Abbrev


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
                elif row.kind in (_SKIP, _BODY):
                    self.steps[code] = row.size + 1


@dataclass(frozen=True, slots=True)
class Function:
    """A function with code: link addresses [low, high), its DIE's offset in .debug_info."""

    low: int
    high: int
    die: int


@dataclass(slots=True)
class DwarfIndex:
    """What the pass found; offsets are those of DIEs in .debug_info.

    `types` has the first complete definition of each path. `statics` has every variable outside
    functions, dead or alive: vtables share paths. `functions` are the live ones by address;
    those placed by DW_AT_ranges are in too, one entry a range. `paths` has every named
    subprogram, inlined-only ones included.
    """

    types: dict[str, int] = field(default_factory=dict)
    statics: dict[str, list[int]] = field(default_factory=dict)
    paths: dict[str, list[int]] = field(default_factory=dict)
    functions: list[Function] = field(default_factory=list)
    lows: list[int] = field(default_factory=list)

    @classmethod
    def build(cls, dwarf: Dwarf) -> DwarfIndex:
        """Run the pass. Raises `InputError` naming the section that is damaged."""
        index = cls()
        plans: dict[tuple[int, int], Plan] = {}
        with guarded(dwarf.elf, ".debug_info"):
            for unit in dwarf.units():
                key = (id(unit.abbrevs), unit.offset_size)
                plan = plans.get(key) or Plan(unit.abbrevs, unit.offset_size)
                plans[key] = plan
                _Pass(dwarf, unit, index, plan).run()
        index.functions.sort(key=lambda fn: (fn.low, -fn.high))
        index.lows = [fn.low for fn in index.functions]
        return index

    def function_at(self, link: int) -> Function | None:
        """The function whose code holds a link address."""
        at = bisect_right(self.lows, link) - 1
        for candidate in self.functions[max(0, at - 7) : at + 1][::-1]:
            if candidate.low <= link < candidate.high:
                return candidate
        return None

    def type_named(self, path: str) -> int:
        """The DIE offset of a type; `SymbolNotFound` with near names."""
        if path in self.types:
            return self.types[path]
        raise SymbolNotFound(path, _near(path, self.types))

    def statics_named(self, path: str) -> list[int]:
        """DIE offsets of the statics of that path, or of those whose path ends in it."""
        found = self.statics.get(path)
        if found is None:
            tail = "::" + path
            found = [
                die for name, dies in self.statics.items() if name.endswith(tail) for die in dies
            ]
        if found:
            return found
        raise SymbolNotFound(path, _near(path, self.statics))


def _near(path: str, names: dict[str, int] | dict[str, list[int]]) -> tuple[str, ...]:
    import difflib

    last = path.rpartition("::")[2]
    lasts = {name.rpartition("::")[2]: name for name in names if "<" not in name}
    close = difflib.get_close_matches(last, lasts, 3, 0.7)
    return tuple(lasts[c] for c in close)


class _Pass:
    """The pass over one unit."""

    def __init__(self, dwarf: Dwarf, unit: Unit, index: DwarfIndex, plan: Plan) -> None:
        self.dwarf = dwarf
        self.unit = unit
        self.index = index
        self.data = dwarf.info
        self.rows, self.steps, self.opens = plan.rows, plan.steps, plan.opens

    def run(self) -> None:
        """Step through the unit's entries; the scope is a stack of path prefixes."""
        data, steps, rows, end = self.data, self.steps, self.rows, self.unit.end
        at = self.unit.first
        prefixes: list[str] = []
        prefix = ""
        while at < end:
            code = data[at]
            step = steps[code]
            if step > 0:
                at += step
                continue
            if code == 0:
                at += 1
                if not prefixes:
                    break
                prefix = prefixes.pop()
                continue
            here = at
            code, body = uleb(data, here)
            row = rows[code]
            if row is None:
                raise BadDwarf(f"uses an undeclared abbreviation {code} at {here:#x}")
            at = body + row.size if row.size >= 0 else self.behind(row, body)
            kind = row.kind
            inner = prefix if kind in (_SKIP, _BODY) else self.note(row, here, body, prefix)
            if row.children:
                if kind in (_SKIP, _STATIC, _FUNCTION):
                    at = self.skip_children(at)
                else:
                    prefixes.append(prefix)
                    prefix = inner
                    if len(prefixes) > _MAX_DEPTH:
                        raise BadDwarf(f"nests deeper than {_MAX_DEPTH} at {here:#x}")
        if at > end:
            raise BadDwarf(f"has entries that run out of the unit at {self.unit.offset:#x}")

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

    def note(self, row: Row, here: int, body: int, prefix: str) -> str:
        """Put one entry into the index; the prefix for what is below it."""
        offsets = row.abbrev.offsets
        name = self.name(row, here, body)
        path = f"{prefix}::{name}" if prefix else name
        if row.kind == _SCOPE:
            return path
        if row.kind == _FUNCTION:
            if name:
                self.index.paths.setdefault(path, []).append(here)
            if f.A_LOW_PC in offsets or f.A_RANGES in offsets or row.size < 0:
                self.note_code(row, here, body)
        elif f.A_DECLARATION in offsets or not name:
            pass
        elif row.kind == _TYPE:
            self.index.types.setdefault(path, here)
        else:
            self.index.statics.setdefault(path, []).append(here)
        return path

    def name(self, row: Row, here: int, body: int) -> str:
        """DW_AT_name, "" when there is none."""
        found = row.abbrev.offsets.get(f.A_NAME)
        if found is None:
            if row.size >= 0 or all(s[0] != f.A_NAME for s in row.abbrev.specs):
                return ""
            return self.dwarf.die(here, self.unit).name
        place, form = found
        at = body + place
        if form == f.F_STRP and self.unit.offset_size == 4:
            return _string(self.dwarf, f.U32(self.data, at)[0])
        if form == f.F_STRX1:
            return _string(self.dwarf, self.dwarf.string_offset(self.unit, self.data[at]))
        if form == f.F_STRX2:
            index = f.U16(self.data, at)[0]
            return _string(self.dwarf, self.dwarf.string_offset(self.unit, index))
        value = self.dwarf.value(self.unit, at, form)
        return value if isinstance(value, str) else ""

    def note_code(self, row: Row, here: int, body: int) -> None:
        """A function's addresses: low and high, or ranges; 0 and -1 mark dropped code."""
        offsets = row.abbrev.offsets
        low_at, high_at = offsets.get(f.A_LOW_PC), offsets.get(f.A_HIGH_PC)
        if low_at and high_at and low_at[1] == f.F_ADDR and high_at[1] == f.F_DATA4:
            low = f.U64(self.data, body + low_at[0])[0]
            spans = [(low, low + f.U32(self.data, body + high_at[0])[0])]
        else:
            die = self.dwarf.die(here, self.unit)
            spans = self.spans(die)
        for low, high in spans:
            if 0 < low < high < 1 << 64:
                self.index.functions.append(Function(low, high, here))

    def spans(self, die: Die) -> list[tuple[int, int]]:
        from breenix_gdbagent.symbols.ranges import spans_of

        return spans_of(self.dwarf, die)


@lru_cache(maxsize=1 << 15)
def _string(dwarf: Dwarf, offset: int) -> str:
    data = dwarf.strings
    return data[offset : f.string_end(data, offset)].decode("utf-8", "replace")


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
    kind = _KINDS.get(abbrev.tag, _SKIP)
    return Row(kind, abbrev.size, int(abbrev.children), tuple(parts), fixed, abbrev)
