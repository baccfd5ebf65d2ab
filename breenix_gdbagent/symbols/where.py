"""From the source to the code: where a line, or a function that was inlined, begins.

Both read what the question needs and no more: headers of line programs until one names the file,
bodies of one unit's functions until the inlined calls are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.debug import DebugInfo
from breenix_gdbagent.symbols.demangle import components
from breenix_gdbagent.symbols.dwarf import Die, Dwarf, Unit, guarded
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, uleb
from breenix_gdbagent.symbols.dwarf_step import Stepper, plan_of
from breenix_gdbagent.symbols.line_program import LineProgram, Row, read_files
from breenix_gdbagent.symbols.ranges import spans_of


@dataclass(frozen=True, slots=True)
class LineCode:
    """Where a source line begins: `line` is the one that has code (the asked one or the first
    behind it), `starts` one link address for each function or inlined copy of it."""

    file: str
    line: int
    starts: tuple[int, ...]


def code_of_line(debug: DebugInfo, file: str, line: int) -> LineCode:
    """The code of FILE:LINE; `file` is a path or its end. Of a line without code, of the first
    one behind it in that file that has some.

    Raises `ReadError` when no unit has the file, or no line from there on has code; `InputError`
    when several files end in that path.
    """
    by_file: dict[str, list[Row]] = {}
    files: dict[str, None] = {}
    for program, wanted in _programs(debug, file):
        files.update(dict.fromkeys(program.files[n] for n in wanted))
        for row in _statements(program, wanted):
            if row.line >= line and row.file is not None:
                by_file.setdefault(row.file, []).append(row)
    if not files:
        raise ReadError(f"no file {file} has code in this kernel")
    if not by_file:
        raise ReadError(f"{file} has no code at line {line} or behind it")
    if len(by_file) > 1:
        raise InputError(
            f"{file} is {len(by_file)} files",
            ", ".join(sorted(by_file)[:3]),
            "give more of the path",
        )
    path, rows = next(iter(by_file.items()))
    best = min(row.line for row in rows)
    return LineCode(path, best, _starts(debug, [row.start for row in rows if row.line == best]))


def _starts(debug: DebugInfo, starts: list[int]) -> tuple[int, ...]:
    """The first of the addresses in each function, and in each inlined call of it."""
    lowest: dict[tuple[object, ...], int] = {}
    for start in starts:
        function = debug.lines.function_at(start)
        chain = ((s.raw, s.line) for s in debug.lines.at(start))
        place = (function.low if function is not None else None, *chain)
        lowest[place] = min(lowest.get(place, start), start)
    return tuple(sorted(set(lowest.values())))


def _programs(debug: DebugInfo, file: str) -> Iterator[tuple[LineProgram, set[int]]]:
    """The line programs that name the file, and the numbers they have for it."""
    dwarf = debug.dwarf
    for offset in dwarf.unit_offsets:
        root = dwarf.root(offset)
        program_at = root.number(dw.DW_AT_stmt_list)
        if program_at is None:
            continue
        unit = dwarf.unit(offset)
        files = read_files(dwarf, unit, program_at, root.text(dw.DW_AT_comp_dir) or "")
        wanted = {n for n, path in files.items() if is_file(path, file)}
        program = debug.lines.program_of(unit) if wanted else None
        if program is not None:
            yield program, wanted


def is_file(path: str, wanted: str) -> bool:
    """Whether `wanted` is the path, or its last components."""
    return path == wanted or path.endswith("/" + wanted.lstrip("/"))


def _statements(program: LineProgram, wanted: set[int]) -> Iterator[Row]:
    """Rows of these files at which a statement of another line than before begins."""
    for sequence in program.sequences:
        before = (0, 0)
        for at, (file, line) in enumerate(zip(sequence.files, sequence.lines, strict=True)):
            if not line:
                continue
            if file in wanted and sequence.statements[at] and (file, line) != before:
                yield program.row(sequence, at)
            before = file, line


def inlined_code(debug: DebugInfo, path: str) -> tuple[int, ...]:
    """Where the inlined copies of a function begin: link addresses, () when it has none.

    `path` is the function's path or its last components. Copies in other units than the one that
    has the function are found where those are small; a crate's code is one unit as a rule.
    """
    wanted = components(path)
    found: set[int] = set()
    dwarf = debug.dwarf
    dies = {
        die
        for name, offsets in debug.index.paths.items()
        if (have := components(name))[-len(wanted) :] == wanted and have
        for die in offsets
    }
    for unit_offset in {dwarf.unit_of(die).offset for die in dies}:
        unit = dwarf.unit(unit_offset)
        with guarded(dwarf.elf, ".debug_info"):
            found.update(_Calls(dwarf, unit).of(dies))
    return tuple(sorted(found))


class _Calls(Stepper):
    """Every inlined call in one unit."""

    def __init__(self, dwarf: Dwarf, unit: Unit) -> None:
        super().__init__(dwarf, unit, plan_of(dwarf, unit))
        self.short = list(self.steps)
        for code, row in enumerate(self.rows[:0x80]):
            if row is not None and row.abbrev.tag == dw.DW_TAG_inlined_subroutine:
                self.short[code] = 0

    def of(self, dies: set[int]) -> Iterator[int]:
        """The first instruction of each inlined copy of the functions at `dies`."""
        data, at, end = self.data, self.unit.first, self.unit.end
        while at < end:
            code = data[at]
            step = self.short[code] or (self.opens[code] if not self._inlined(code) else 0)
            if step > 0:
                at += step
                continue
            if code == 0:
                at += 1
                continue
            here = at
            code, body = uleb(data, at)
            row = self.rows[code]
            if row is None:
                raise BadDwarf(f"uses an undeclared abbreviation {code} at {here:#x}")
            at = body + row.size if row.size >= 0 else self.behind(row, body)
            if row.abbrev.tag == dw.DW_TAG_inlined_subroutine:
                die = self.dwarf.die(here, self.unit)
                if die.number(dw.DW_AT_abstract_origin) in dies:
                    yield from self._entry(die)

    def _inlined(self, code: int) -> bool:
        row = self.rows[code] if code < len(self.rows) else None
        return row is not None and row.abbrev.tag == dw.DW_TAG_inlined_subroutine

    def _entry(self, die: Die) -> Iterator[int]:
        """DW_AT_entry_pc, else the first range's start, as gdb has it."""
        live = [low for low, high in spans_of(self.dwarf, die) if 0 < low < high]
        if live:
            entry = die.number(dw.DW_AT_entry_pc)
            yield entry if entry in live else live[0]
