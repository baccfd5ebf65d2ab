"""One unit's line program (.debug_line), versions 2 to 5, run to its rows.

Source: DWARF 4 section 6.2, DWARF 5 section 6.2.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf import Dwarf, Unit, guarded
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, sleb, uleb, unsigned

# A corrupt count must not make us allocate; a unit has a few thousand files at most.
_MAX_ENTRIES = 1 << 16


@dataclass(slots=True)
class Sequence:
    """Rows of ascending addresses: `addresses` with the `files` and `lines` that begin there, and
    in `statements` whether a statement does (is_stmt).

    Code of the sequence ends at `end`. `hidden` has, by address, (file, line) of a statement whose
    row another one at the same address, of no statement, has replaced.
    """

    addresses: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    statements: list[bool] = field(default_factory=list)
    end: int = 0
    hidden: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """Code [start, end) of one line, as a debugger steps over it: link addresses.

    `statement` says whether `start` is a good place to stop.
    """

    start: int
    end: int
    file: str | None
    line: int
    statement: bool


@dataclass(slots=True)
class LineProgram:
    """The files of a unit (as paths, by the number that rows and DIEs use) and its sequences."""

    files: dict[int, str]
    sequences: list[Sequence]
    _starts: list[int] = field(default_factory=list)

    def at(self, link: int) -> tuple[str | None, int | None]:
        """(file, line) of a link address; line None where the compiler gave none (line 0)."""
        if not self._starts:
            self.sequences.sort(key=lambda s: s.addresses[0])
            self._starts = [s.addresses[0] for s in self.sequences]
        at = bisect_right(self._starts, link) - 1
        if at < 0 or link >= self.sequences[at].end:
            return None, None
        sequence = self.sequences[at]
        row = bisect_right(sequence.addresses, link) - 1
        return self.files.get(sequence.files[row]), sequence.lines[row] or None

    def row_at(self, link: int) -> Row | None:
        """The row that holds a link address; code of line 0 belongs to the row before it, as gdb
        has it (gdb/dwarf2/read.c, lnp_state_machine::record_line)."""
        if self.at(link) == (None, None):
            return None
        sequence = self.sequences[bisect_right(self._starts, link) - 1]
        at = bisect_right(sequence.addresses, link) - 1
        while at >= 0 and not sequence.lines[at]:
            at -= 1
        return None if at < 0 else self.row(sequence, at)

    def row(self, sequence: Sequence, at: int) -> Row:
        """One row of a sequence that is not of line 0."""
        behind = at + 1
        while behind < len(sequence.lines) and not sequence.lines[behind]:
            behind += 1
        end = sequence.addresses[behind] if behind < len(sequence.lines) else sequence.end
        start = sequence.addresses[at]
        statement = sequence.statements[at]
        file, line = sequence.files[at], sequence.lines[at]
        if not statement and start in sequence.hidden:
            (file, line), statement = sequence.hidden[start], True
        return Row(start, end, self.files.get(file), line, statement)


def read_files(dwarf: Dwarf, unit: Unit, offset: int, directory: str) -> dict[int, str]:
    """The files of the program at `offset`, without running it. Raises as `read_program`."""
    with guarded(dwarf.elf, ".debug_line"):
        reader = _Reader(dwarf, unit, offset, directory)
        return reader.header()[0]


def read_program(dwarf: Dwarf, unit: Unit, offset: int, directory: str) -> LineProgram:
    """The program at `offset` of .debug_line; `directory` is the unit's DW_AT_comp_dir.

    Raises `InputError` naming .debug_line when it is damaged.
    """
    with guarded(dwarf.elf, ".debug_line"):
        return _Reader(dwarf, unit, offset, directory).read()


class _Reader:
    """Header and state machine of one program."""

    def __init__(self, dwarf: Dwarf, unit: Unit, offset: int, directory: str) -> None:
        self.dwarf, self.unit, self.directory = dwarf, unit, directory
        self.data = dwarf.line
        self.at = offset
        self.directories: list[str] = []

    def fixed(self, size: int) -> int:
        value = unsigned(self.data, self.at, size)
        self.at += size
        return value

    def uleb(self) -> int:
        value, self.at = uleb(self.data, self.at)
        return value

    def read(self) -> LineProgram:
        files, start, end, header, lengths = self.header()

        def define(at: int) -> None:
            self.at = at
            files[len(files) + 1] = self.file()

        return LineProgram(files, _run(self.data, start, end, header, lengths, define))

    def header(self) -> tuple[dict[int, str], int, int, tuple[int, int, int, int, bool], list[int]]:
        """(files, start and end of the program, its parameters, lengths of its opcodes)."""
        length, size = self.fixed(4), 4
        if length == 0xFFFFFFFF:
            length, size = self.fixed(8), 8
        end = self.at + length
        if end > len(self.data):
            raise BadDwarf(f"is truncated: a program ends at {end:#x}")
        version = self.fixed(2)
        if not 2 <= version <= 5:
            raise BadDwarf(f"has a program of version {version}, 2 to 5 are read")
        if version == 5:
            self.at += 2
        start = self.fixed(size)
        start += self.at
        minimum = self.fixed(1)
        if version >= 4 and self.fixed(1) != 1:
            raise BadDwarf("is for a VLIW machine")
        statement = bool(self.fixed(1))
        base = self.fixed(1)
        base -= 256 if base > 127 else 0
        span, opcode_base = self.fixed(1), self.fixed(1)
        if not span or not opcode_base:
            raise BadDwarf("has a program header of zeroes")
        lengths = [self.fixed(1) for _ in range(opcode_base - 1)]
        files = self.files_5(size) if version == 5 else self.files_2()
        return files, start, end, (minimum, base, span, opcode_base, statement), lengths

    def files_2(self) -> dict[int, str]:
        """Directories and files as strings, numbered from 1 (DWARF 4 section 6.2.4)."""
        self.directories = [self.directory]
        while self.data[self.at]:
            self.directories.append(self.string())
        self.at += 1
        files: dict[int, str] = {}
        while self.data[self.at]:
            files[len(files) + 1] = self.file()
        self.at += 1
        return files

    def file(self) -> str:
        """The path of one entry: name, directory, time and length."""
        name, index = self.string(), self.uleb()
        self.uleb()
        self.uleb()
        return self.path(self.directories, index, name)

    def string(self) -> str:
        end = f.string_end(self.data, self.at)
        text = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return text

    def path(self, directories: list[str], index: int, name: str) -> str:
        if name.startswith("/"):
            return name
        folder = directories[index] if index < len(directories) else ""
        if not folder.startswith("/") and self.directory and folder != self.directory:
            folder = f"{self.directory}/{folder}" if folder else self.directory
        return f"{folder}/{name}" if folder else name

    def files_5(self, size: int) -> dict[int, str]:
        """Directories and files in self-describing tables, numbered from 0 (DWARF 5 6.2.4)."""
        directories = [name for name, _ in self.table(size)]
        if directories and not directories[0].startswith("/") and self.directory:
            directories[0] = self.directory
        return {
            number: self.path(directories, index, name)
            for number, (name, index) in enumerate(self.table(size))
        }

    def table(self, size: int) -> list[tuple[str, int]]:
        """(path, directory number) of each entry of one table."""
        formats = [(self.uleb(), self.uleb()) for _ in range(self.fixed(1))]
        count = self.uleb()
        if count > _MAX_ENTRIES:
            raise BadDwarf(f"has a table of {count} files")
        entries = []
        for _ in range(count):
            name, index = "", 0
            for kind, form in formats:
                if kind == dw.DW_LNCT_path:
                    name = self.form_text(form, size)
                elif kind == dw.DW_LNCT_directory_index:
                    index = self.form_number(form)
                self.at = f.skip_form(self.data, self.at, form, size)
            entries.append((name, index))
        return entries

    def form_text(self, form: int, size: int) -> str:
        if form == dw.DW_FORM_string:
            data, at = self.data, self.at
        elif form in (dw.DW_FORM_line_strp, dw.DW_FORM_strp):
            data = self.dwarf.line_strings if form == dw.DW_FORM_line_strp else self.dwarf.strings
            at = unsigned(self.data, self.at, size)
        else:
            raise BadDwarf(f"has a file name of form {form:#x}")
        return data[at : f.string_end(data, at)].decode("utf-8", "replace")

    def form_number(self, form: int) -> int:
        size = f.fixed_size(form, 4)
        return uleb(self.data, self.at)[0] if size is None else unsigned(self.data, self.at, size)


def _run(
    data: bytes,
    at: int,
    end: int,
    header: tuple[int, int, int, int, bool],
    lengths: list[int],
    define: Callable[[int], None],
) -> list[Sequence]:
    """The rows of a program. Of several rows at one address the last one holds. `define` is given
    the place of each further file that the program itself defines (DWARF 4 and before).

    Sequences that start at 0 belong to code that the linker dropped, and are left out.
    """
    minimum, line_base, line_range, opcode_base, default = header
    const_add = (255 - opcode_base) // line_range * minimum
    # Nearly every row comes from a special opcode: what each does is worked out before.
    special = [
        (op // line_range * minimum, line_base + op % line_range) for op in range(256 - opcode_base)
    ]
    sequences: list[Sequence] = []
    seq, address, file, line, statement = Sequence(), 0, 1, 1, default
    while at < end:
        op = data[at]
        at += 1
        if op >= opcode_base:
            onward, lines = special[op - opcode_base]
            line += lines
            if onward and seq.addresses:
                address += onward
                seq.addresses.append(address)
                seq.files.append(file)
                seq.lines.append(line)
                seq.statements.append(statement)
            else:
                address += onward
                _row(seq, address, file, line, statement)
        elif op == 0:
            size, at = uleb(data, at)
            behind = at + size
            sub = data[at] if size else 0
            if sub == dw.DW_LNE_end_sequence:
                _finish(sequences, seq, address)
                seq, address, file, line, statement = Sequence(), 0, 1, 1, default
            elif sub == dw.DW_LNE_set_address:
                address = unsigned(data, at + 1, size - 1)
            elif sub == dw.DW_LNE_define_file:
                define(at + 1)
            at = behind
        elif op == dw.DW_LNS_copy:
            _row(seq, address, file, line, statement)
        elif op == dw.DW_LNS_advance_pc:
            step, at = uleb(data, at)
            address += step * minimum
        elif op == dw.DW_LNS_advance_line:
            step, at = sleb(data, at)
            line += step
        elif op == dw.DW_LNS_set_file:
            file, at = uleb(data, at)
        elif op == dw.DW_LNS_negate_stmt:
            statement = not statement
        elif op == dw.DW_LNS_const_add_pc:
            address += const_add
        elif op == dw.DW_LNS_fixed_advance_pc:
            address += unsigned(data, at, 2)
            at += 2
        else:  # of columns, blocks, prologues, or of a vendor: the header says how many operands
            for _ in range(lengths[op - 1]):
                _, at = uleb(data, at)
    return sequences


def _row(seq: Sequence, address: int, file: int, line: int, statement: bool) -> None:
    if seq.addresses and seq.addresses[-1] == address:
        if seq.statements[-1] and not statement and seq.lines[-1]:
            seq.hidden[address] = seq.files[-1], seq.lines[-1]
        seq.files[-1], seq.lines[-1], seq.statements[-1] = file, line, statement
    else:
        seq.addresses.append(address)
        seq.files.append(file)
        seq.lines.append(line)
        seq.statements.append(statement)


def _finish(sequences: list[Sequence], seq: Sequence, end: int) -> None:
    seq.end = end
    if seq.addresses and 0 < seq.addresses[0] < end:
        if any(a > b for a, b in zip(seq.addresses, seq.addresses[1:], strict=False)):
            order = sorted(range(len(seq.addresses)), key=lambda i: seq.addresses[i])
            seq.addresses = [seq.addresses[i] for i in order]
            seq.files = [seq.files[i] for i in order]
            seq.lines = [seq.lines[i] for i in order]
            seq.statements = [seq.statements[i] for i in order]
        sequences.append(seq)
