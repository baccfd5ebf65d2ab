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
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf import Die, Dwarf, Unit, guarded
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, uleb
from breenix_gdbagent.symbols.dwarf_plan import BODY, FUNCTION, SCOPE, SKIP, STATIC, TYPE, Plan, Row
from breenix_gdbagent.symbols.dwarf_step import Stepper, plan_of

_MAX_DEPTH = 256


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
    subprogram, inlined-only ones included. `split` counts those of the `units` whose entries are in
    .dwo files (DWARF 5 7.3.2, and GNU's form of it in DWARF 4), which are not read.
    """

    types: dict[str, int] = field(default_factory=dict)
    statics: dict[str, list[int]] = field(default_factory=dict)
    paths: dict[str, list[int]] = field(default_factory=dict)
    functions: list[Function] = field(default_factory=list)
    lows: list[int] = field(default_factory=list)
    split: int = 0
    units: int = 0
    _asked: dict[str, list[int]] = field(default_factory=dict)
    _near: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def build(cls, dwarf: Dwarf) -> DwarfIndex:
        """Run the pass. Raises `InputError` naming the section that is damaged."""
        index = cls()
        with guarded(dwarf.elf, ".debug_info"):
            for unit in dwarf.units():
                index.units += 1
                index.split += is_split(dwarf, unit)
                _Pass(dwarf, unit, index, plan_of(dwarf, unit)).run()
        index.sort()
        return index

    @classmethod
    def of_unit(cls, dwarf: Dwarf, unit: Unit) -> DwarfIndex:
        """Functions with code of one unit alone: a frame's lines need no others, and no names."""
        index = cls()
        with guarded(dwarf.elf, ".debug_info"):
            _CodePass(dwarf, unit, index, plan_of(dwarf, unit)).run()
        index.sort()
        return index

    def sort(self) -> None:
        self.functions.sort(key=lambda fn: (fn.low, -fn.high))
        self.lows = [fn.low for fn in self.functions]

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
        raise self.missing(path, _near(path, self.types))

    def statics_named(self, path: str) -> list[int]:
        """DIE offsets of the statics of that path, or of those whose path ends in it."""
        found = self._asked.get(path)
        if found is None:
            tail = "::" + path
            found = self.statics.get(path) or [
                die for name, dies in self.statics.items() if name.endswith(tail) for die in dies
            ]
            self._asked[path] = found
        if found:
            return found
        if path not in self._near:
            self._near[path] = _near(path, self.statics)
        raise self.missing(path, self._near[path])

    def missing(self, path: str, near: tuple[str, ...]) -> SymbolNotFound:
        """The error for a name that is not there, or in a file that is not read."""
        error = SymbolNotFound(path, near)
        if self.split and not near:
            error.why = f"{self.split} of {self.units} units keep names and types in .dwo files"
            error.fix = "split debug information is not read: build with split-debuginfo=off"
        return error


def is_split(dwarf: Dwarf, unit: Unit) -> bool:
    """Whether a unit is the skeleton of one in a .dwo file."""
    code, _ = uleb(dwarf.info, unit.first)
    root = unit.abbrevs[code] if code < len(unit.abbrevs) else None
    names = (dw.DW_AT_dwo_name, dw.DW_AT_GNU_dwo_name)
    return root is not None and any(spec[0] in names for spec in root.specs)


def _near(path: str, names: dict[str, int] | dict[str, list[int]]) -> tuple[str, ...]:
    import difflib

    last = path.rpartition("::")[2]
    lasts = {name.rpartition("::")[2]: name for name in names if "<" not in name}
    close = difflib.get_close_matches(last, lasts, 3, 0.7)
    return tuple(lasts[c] for c in close)


class _Pass(Stepper):
    """The pass over one unit."""

    def __init__(self, dwarf: Dwarf, unit: Unit, index: DwarfIndex, plan: Plan) -> None:
        super().__init__(dwarf, unit, plan)
        self.index = index

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
            inner = prefix if kind in (SKIP, BODY) else self.note(row, here, body, prefix)
            if row.children:
                if kind in (SKIP, STATIC, FUNCTION):
                    at = self.skip_children(at)
                else:
                    prefixes.append(prefix)
                    prefix = inner
                    if len(prefixes) > _MAX_DEPTH:
                        raise BadDwarf(f"nests deeper than {_MAX_DEPTH} at {here:#x}")
        if at > end:
            raise BadDwarf(f"has entries that run out of the unit at {self.unit.offset:#x}")

    def note(self, row: Row, here: int, body: int, prefix: str) -> str:
        """Put one entry into the index; the prefix for what is below it."""
        name = self.name(row, here, body)
        path = f"{prefix}::{name}" if prefix else name
        if row.kind == SCOPE:
            return path
        if row.kind == FUNCTION:
            if name:
                self.index.paths.setdefault(path, []).append(here)
            if row.coded:
                self.note_code(row, here, body)
        elif not name or row.declared:
            pass
        elif row.kind == TYPE:
            self.index.types.setdefault(path, here)
        else:
            self.index.statics.setdefault(path, []).append(here)
        return path

    def name(self, row: Row, here: int, body: int) -> str:
        """DW_AT_name, "" when there is none."""
        found = row.name
        if found is None:
            if row.size >= 0 or all(s[0] != dw.DW_AT_name for s in row.abbrev.specs):
                return ""
            return self.dwarf.die(here, self.unit).name
        place, form = found
        at = body + place
        if form == dw.DW_FORM_strp and self.unit.offset_size == 4:
            return _string(self.dwarf, f.U32(self.data, at)[0])
        if form == dw.DW_FORM_strx1:
            return _string(self.dwarf, self.dwarf.string_offset(self.unit, self.data[at]))
        if form == dw.DW_FORM_strx2:
            index = f.U16(self.data, at)[0]
            return _string(self.dwarf, self.dwarf.string_offset(self.unit, index))
        value = self.dwarf.value(self.unit, at, form)
        return value if isinstance(value, str) else ""

    def note_code(self, row: Row, here: int, body: int) -> None:
        """A function's addresses: low and high, or ranges; 0 and -1 mark dropped code."""
        offsets = row.abbrev.offsets
        low_at, high_at = offsets.get(dw.DW_AT_low_pc), offsets.get(dw.DW_AT_high_pc)
        if low_at and high_at and low_at[1] == dw.DW_FORM_addr and high_at[1] == dw.DW_FORM_data4:
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


class _CodePass(_Pass):
    """The same for what has code, and nothing else."""

    def note(self, row: Row, here: int, body: int, prefix: str) -> str:
        if row.kind == FUNCTION and row.coded:
            self.note_code(row, here, body)
        return prefix


@lru_cache(maxsize=1 << 15)
def _string(dwarf: Dwarf, offset: int) -> str:
    data = dwarf.strings
    return data[offset : f.string_end(data, offset)].decode("utf-8", "replace")
