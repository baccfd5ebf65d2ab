"""File, line and the chain of inlined calls for any program counter, as `addr2line -Cfi` says.

A lookup reads only the unit that holds the address. Hand-written assembly has no DWARF: there the
answer is empty and the symbol table has the name.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property

from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.demangle import demangle
from breenix_gdbagent.symbols.dwarf import Die, Dwarf, Unit, guarded
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, uleb
from breenix_gdbagent.symbols.dwarf_index import DwarfIndex, Function
from breenix_gdbagent.symbols.dwarf_step import Stepper, plan_of
from breenix_gdbagent.symbols.line_program import LineProgram, Row, read_program
from breenix_gdbagent.symbols.ranges import spans_of
from breenix_gdbagent.symbols.spot import Spot

_MAX_INLINE = 256


class LineTable:
    """Lines of one ELF by link address. Raises `InputError` naming the damaged section."""

    def __init__(self, dwarf: Dwarf) -> None:
        self.dwarf = dwarf
        self._programs: dict[int, LineProgram | None] = {}
        self._functions: dict[int, DwarfIndex] = {}
        self._known: dict[int, tuple[Spot, ...]] = {}

    def at(self, link: int) -> tuple[Spot, ...]:
        """The chain for a link address, innermost first; the last is the function itself.

        Empty where DWARF has no function (assembly, padding).
        """
        known = self._known.get(link)
        if known is None:
            known = self._known[link] = self._chain(link)
        return known

    def is_listed(self, link: int) -> bool:
        """Whether .debug_aranges has the address. Where it has not, to be sure costs a look at
        every unit that it leaves out."""
        return _in(self._aranges, link) is not None

    def function_at(self, link: int) -> Function | None:
        """The function whose code holds a link address."""
        unit = self.unit_at(link)
        return None if unit is None else self._unit_functions(unit).function_at(link)

    def line_at(self, link: int) -> tuple[str | None, int | None]:
        """(file, line) of the row that covers a link address."""
        unit = self.unit_at(link)
        program = None if unit is None else self._program(unit)
        return (None, None) if program is None else program.at(link)

    def row_at(self, link: int) -> Row | None:
        """The row that covers a link address, None where no line is known."""
        unit = self.unit_at(link)
        program = None if unit is None else self._program(unit)
        return None if program is None else program.row_at(link)

    def program_of(self, unit: Unit) -> LineProgram | None:
        """The line program of a unit, read once; None when it has none."""
        return self._program(unit)

    def _chain(self, link: int) -> tuple[Spot, ...]:
        unit = self.unit_at(link)
        if unit is None:
            return ()
        function = self._unit_functions(unit).function_at(link)
        if function is None:
            return ()
        program = self._program(unit)
        file, line = program.at(link) if program else (None, None)
        chain = self._dies(unit, function, link)
        spots = []
        for die in reversed(chain):
            inlined = die.tag == dw.DW_TAG_inlined_subroutine
            name, raw = self._name(die)
            spots.append(Spot(name, raw, file, line, inlined))
            if inlined:
                number = die.number(dw.DW_AT_call_file)
                file = program.files.get(number) if program and number is not None else None
                line = die.number(dw.DW_AT_call_line) or None
        return tuple(spots)

    def _dies(self, unit: Unit, function: Function, link: int) -> list[Die]:
        """The function's DIE and those of the inlined calls that hold `link`, outermost first."""
        chain = [self.dwarf.die(function.die, unit)]
        with guarded(self.dwarf.elf, ".debug_info"):
            chain += _Inlines(self.dwarf, unit).at(chain[0], link)
        return chain

    def frames_at(self, link: int) -> tuple[int, ...]:
        """What tells the frames at a link address from each other: offsets of the DIEs of the
        function and of the inlined calls in it, outermost first. Empty where DWARF has none."""
        unit = self.unit_at(link)
        function = None if unit is None else self._unit_functions(unit).function_at(link)
        if unit is None or function is None:
            return ()
        return tuple(die.offset for die in self._dies(unit, function, link))

    def entry_of(self, frame: int) -> int | None:
        """Where the code of a frame (see `frames_at`) begins, None where DWARF does not say."""
        entry = self.dwarf.die(frame).number(dw.DW_AT_entry_pc)
        live = [low for low, _ in self.spans_of(frame)]
        return entry if entry in live else next(iter(live), None)

    def spans_of(self, frame: int) -> list[tuple[int, int]]:
        """[low, high) of a frame's code."""
        found = spans_of(self.dwarf, self.dwarf.die(frame))
        return [(low, high) for low, high in found if 0 < low < high]

    def _name(self, die: Die) -> tuple[str, str]:
        named = self.dwarf.origin(die)
        raw = (
            named.text(dw.DW_AT_linkage_name)
            or die.text(dw.DW_AT_linkage_name)
            or named.name
            or die.name
        )
        return demangle(raw), raw

    def _unit_functions(self, unit: Unit) -> DwarfIndex:
        found = self._functions.get(unit.offset)
        if found is None:
            found = self._functions[unit.offset] = DwarfIndex.of_unit(self.dwarf, unit)
        return found

    def _program(self, unit: Unit) -> LineProgram | None:
        if unit.offset not in self._programs:
            root = self.dwarf.die(unit.first, unit)
            offset = root.number(dw.DW_AT_stmt_list)
            directory = root.text(dw.DW_AT_comp_dir) or ""
            self._programs[unit.offset] = (
                None if offset is None else read_program(self.dwarf, unit, offset, directory)
            )
        return self._programs[unit.offset]

    def unit_at(self, link: int) -> Unit | None:
        """The unit whose code holds a link address: by .debug_aranges, else by its root DIE."""
        found = _in(self._aranges, link)
        if found is None:
            found = _in(self._roots, link)
        return None if found is None else self.dwarf.unit(found)

    @cached_property
    def _listed(self) -> list[tuple[int, int, int]]:
        """(low, high, unit offset) from .debug_aranges, dead code included (DWARF 5 6.1.2)."""
        with guarded(self.dwarf.elf, ".debug_aranges"):
            return _aranges(self.dwarf.elf.data(".debug_aranges"))

    @cached_property
    def _aranges(self) -> tuple[list[int], list[tuple[int, int]]]:
        """(starts, (end, unit offset)) of live code."""
        return _sorted(self._listed)

    @cached_property
    def _roots(self) -> tuple[list[int], list[tuple[int, int]]]:
        """The same for units that .debug_aranges lacks, from the ranges of their root DIEs."""
        found = []
        known = {unit for _, _, unit in self._listed}
        for offset in self.dwarf.unit_offsets:
            if offset in known:
                continue
            for low, high in spans_of(self.dwarf, self.dwarf.root(offset)):
                found.append((low, high, offset))
        return _sorted(found)


def _in(table: tuple[list[int], list[tuple[int, int]]], link: int) -> int | None:
    """The unit offset of the span that holds `link`."""
    starts, spans = table
    at = bisect_right(starts, link) - 1
    return spans[at][1] if at >= 0 and link < spans[at][0] else None


def _sorted(spans: list[tuple[int, int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
    live = sorted(s for s in spans if 0 < s[0] < s[1])
    return [s[0] for s in live], [(s[1], s[2]) for s in live]


def _aranges(data: bytes) -> list[tuple[int, int, int]]:
    spans = []
    at = 0
    while at < len(data):
        length, size = f.U32(data, at)[0], 4
        begin = at
        at += 4
        if length == 0xFFFFFFFF:
            length, size = f.U64(data, at)[0], 8
            at += 8
        end = at + length
        unit = f.unsigned(data, at + 2, size)
        if data[at + 2 + size] != 8 or end > len(data):
            raise BadDwarf(f"has a table at {begin:#x} that is damaged")
        # Tuples are aligned to twice the address size, counted from the table's start.
        at += 4 + size
        at = begin + ((at - begin + 15) & ~15)
        while at + 16 <= end:
            low, span = f.U64(data, at)[0], f.U64(data, at + 8)[0]
            at += 16
            spans.append((low, low + span, unit))
        at = end
    return spans


class _Inlines(Stepper):
    """Finds the inlined calls around an address, without decoding what lies elsewhere."""

    def __init__(self, dwarf: Dwarf, unit: Unit) -> None:
        super().__init__(dwarf, unit, plan_of(dwarf, unit))
        # An inlined call without children is what we look for, not what we step over.
        self.short = list(self.steps)
        for code, row in enumerate(self.rows[:0x80]):
            if row is not None and row.abbrev.tag == dw.DW_TAG_inlined_subroutine:
                self.short[code] = 0

    def at(self, function: Die, link: int) -> Iterator[Die]:
        """The inlined-subroutine DIEs that hold `link`, outermost first."""
        if not function.children:
            return
        at = function.end
        data, end = self.data, self.unit.end
        found = 0
        while at < end:
            step = self.short[data[at]]
            if step > 0:
                at += step
                continue
            here = at
            code, body = uleb(data, at)
            if code == 0:
                return
            row = self.rows[code]
            if row is None:
                raise BadDwarf(f"uses an undeclared abbreviation {code} at {here:#x}")
            at = body + row.size if row.size >= 0 else self.behind(row, body)
            if not row.children and row.abbrev.tag != dw.DW_TAG_inlined_subroutine:
                continue
            if row.abbrev.tag in (dw.DW_TAG_inlined_subroutine, dw.DW_TAG_lexical_block):
                die = self.dwarf.die(here, self.unit)
                if any(low <= link < high for low, high in spans_of(self.dwarf, die)):
                    if die.tag == dw.DW_TAG_inlined_subroutine:
                        found += 1
                        yield die
                    if not row.children or found > _MAX_INLINE:
                        return
                    continue
            if row.children:
                at = self.skip_children(at)
