"""Generated DWARF as we read it, held against readelf, pyelftools, gdb and drgn."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

from elftools.elf.elffile import ELFFile

from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.cfi import REGISTERS, FrameTable
from breenix_gdbagent.symbols.dwarf import Dwarf
from breenix_gdbagent.symbols.line_program import Sequence, read_program
from breenix_gdbagent.symbols.location import evaluate
from tests.unit.symbols.test_cfi import by_readelf
from tests.writers import programs
from tests.writers.dwarf import Die, Unit, Writer
from tests.writers.elf import SHF_ALLOC, Elf, Sec, text

Row = dict[str, str]


def frames(dice: random.Random, path: Path, count: int, *, every: bool) -> FrameTable:
    """An ELF with `count` descriptions in .debug_frame and as many in .eh_frame."""
    plain, eh = programs.frame_sections(dice, count, every)
    sections = [Sec(".debug_frame", plain), Sec(".eh_frame", eh, programs.EH_FRAME, SHF_ALLOC)]
    path.write_bytes(Elf([text(bytes(64)), *sections]).build())
    return FrameTable(Image.open(path).elf)


def row_of(frames: FrameTable, link: int) -> Row | None:
    """CFA and registers at a link address in readelf's words; ``?`` for what is not kept or not
    read. None: a CFA, or a return address, that is not read."""
    rules = frames.rules(link)
    if rules is None:
        return None
    found = {"CFA": f"{rules.cfa_register}{rules.cfa_offset:+d}"}
    found |= {register: f"c{offset:+d}" for register, offset in rules.saved.items()}
    found |= {register: f"v{offset:+d}" for register, offset in rules.values.items()}
    return found | dict.fromkeys(rules.unknown, "?")


def compare_frames_with_readelf(readelf: str, path: Path, table: FrameTable) -> int:
    """How many rows were compared, at their first and last byte; all have to be equal."""
    compared = 0
    for section in by_readelf(readelf, path):
        for (_, high), rows in section.items():
            ends = [start for start, _ in rows[1:]] + [high] * bool(rows)
            for (start, told), end in zip(rows, ends, strict=True):
                if start == end:
                    continue
                expected = {"rip" if k == "ra" else k: v for k, v in told.items()}
                for link in (start, end - 1):
                    _same_row(expected, row_of(table, link), link)
                compared += 1
    return compared


def _same_row(expected: Row, ours: Row | None, link: int) -> None:
    """readelf has ``u`` both for undefined and for never spoken of, ``exp`` and ``vexp`` for
    expressions, and a register's name for DW_CFA_register."""
    if ours is None:
        by_value = expected["CFA"] == "exp" or not re.match(r"[cvus]", expected["rip"])
        assert by_value, f"{link:#x}: nothing, and readelf has {expected}"
        return
    for register, rule in expected.items():
        mine = ours.pop(register, None)
        if rule == "s":
            fits = mine is None
        elif rule == "u":
            fits = mine in (None, "?")
        elif register == "CFA" or re.match(r"[cv][+-]", rule):
            fits = mine == rule
        else:
            fits = mine == "?"
        assert fits, f"{link:#x} {register}: {mine}, and readelf has {rule}"
    assert not ours, f"{link:#x}: {ours} besides"


def compare_frames_with_pyelftools(path: Path, table: FrameTable) -> int:
    """As with readelf, for descriptions that are not of `every` instruction. pyelftools keeps apart
    what is undefined and what was never spoken of."""
    compared = 0
    with path.open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info()
        for entry in (*dwarf.CFI_entries(), *dwarf.EH_CFI_entries()):
            if not hasattr(entry, "cie") or entry.cie is None:
                continue
            high = entry["initial_location"] + entry["address_range"]
            rows = entry.get_decoded().table
            for row, after in zip(rows, [*rows[1:], {"pc": high}], strict=True):
                if row["pc"] < after["pc"]:
                    _same_as_pyelftools(row, row_of(table, row["pc"]))
                    compared += 1
    return compared


def _same_as_pyelftools(row: dict, ours: Row | None) -> None:  # type: ignore[type-arg]
    link, cfa = row["pc"], row["cfa"]
    kinds = {"OFFSET": "c{:+d}", "VAL_OFFSET": "v{:+d}"}
    expected = {} if cfa.reg is None else {"CFA": f"{REGISTERS[cfa.reg]}{cfa.offset:+d}"}
    for number, rule in row.items():
        if isinstance(number, int) and rule.type != "SAME_VALUE":
            expected[REGISTERS[number]] = kinds.get(rule.type, "?").format(rule.arg)
    if ours is None:
        assert "CFA" not in expected or expected["rip"] == "?", f"{link:#x}: {expected}"
    else:
        assert ours == expected, hex(link)


def lines(dice: random.Random, path: Path, version: int) -> list[Sequence]:
    """A unit with one line program, as we read it: sequences of rows in order of address."""
    root = Die(0x11, [(0x03, 0x08, "u"), (0x10, 0x17, 0), (0x1B, 0x08, "/comp"),
                      (0x11, 0x01, 0x1000), (0x12, 0x07, 0x40_0000)])  # fmt: skip
    sections = Writer().sections(Unit(root, max(version, 4)))
    data = programs.line_program(dice, version)
    path.write_bytes(Elf([text(bytes(64)), *sections, Sec(".debug_line", data)]).build())
    dwarf = Dwarf(Image.open(path).elf)
    return read_program(dwarf, next(dwarf.units()), 0, "/comp").sequences


Shown = tuple[int, int, int, bool]
"""(address, file's number, line, whether a statement begins)."""


def rows_of(sequences: list[Sequence]) -> list[Shown]:
    return sorted(
        row for s in sequences
        for row in zip(s.addresses, s.files, s.lines, s.statements, strict=True)
    )  # fmt: skip


def _last_of_each_address(rows: list[Shown]) -> list[Shown]:
    """Of rows at one address we keep the last, and so does this for those that tell all."""
    return sorted({row[0]: row for row in rows}.values())


def lines_by_pyelftools(path: Path) -> list[Shown]:
    with path.open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info()
        program = dwarf.line_program_for_CU(next(dwarf.iter_CUs()))
        states = [entry.state for entry in program.get_entries() if entry.state is not None]
    return _last_of_each_address(
        [(s.address, s.file, s.line, bool(s.is_stmt)) for s in states if not s.end_sequence]
    )


def lines_by_readelf(readelf: str, path: Path) -> list[Shown]:
    """From ``decodedline``: name, line, address, and x for a statement."""
    command = [readelf, "-W", "--debug-dump=decodedline", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^(\w+\.rs)\s+(\d+)\s+0x([0-9a-f]+)(?:\[\d+\])?\s*(\d*)\s*(x?)", told, re.M)
    names = {name: number for number, name in enumerate(programs.FILES, 1)}
    return _last_of_each_address(
        [(int(at, 16), names[name], int(line), bool(x)) for name, line, at, _, x in found]
    )


def statics(dice: random.Random, path: Path, count: int, *, jumps: bool) -> list[int]:
    """Statics S0, S1, ... of type u64 whose locations are generated, and what each is for us."""
    u64 = Die(0x24, [(0x03, 0x08, "u64"), (0x0B, 0x0B, 8), (0x3E, 0x0B, 7)])
    codes = [programs.location(dice, jumps) for _ in range(count)]
    dies = [
        Die(0x34, [(0x03, 0x08, f"S{n}"), (0x49, 0x10, u64), (0x3F, 0x19, 1), (0x02, 0x18, code)])
        for n, code in enumerate(codes)
    ]
    root = Die(0x11, [(0x03, 0x08, "u"), (0x13, 0x0B, 0x1D), (0x11, 0x01, 0x1000),
                      (0x12, 0x06, 64)], [u64, *dies])  # fmt: skip
    memory = Sec(".data", programs.MEMORY, programs.MEMORY_AT, SHF_ALLOC)
    sections = Writer().sections(Unit(root, 4))
    path.write_bytes(Elf([text(bytes(64)), memory, *sections], type=2).build())

    def read(va: int, length: int) -> bytes:
        return programs.MEMORY[va - programs.MEMORY_AT :][:length]

    dwarf = Image.open(path).debug.dwarf
    unit = next(dwarf.units())
    places = [evaluate(dwarf, unit, code, 0, read) for code in codes]
    assert all(place.address is None and not place.missing for place in places)
    return [int.from_bytes(place.data, "little") for place in places]


def statics_by_gdb(gdb: list[str], path: Path, count: int) -> list[int]:
    """The same by gdb, from the file alone. With jumps that meet again gdb 13 fails inside
    (dwarf2_get_symbol_read_needs: a place is visited twice)."""
    script = path.with_suffix(".gdb")
    script.write_text("".join(f"output/x S{n}\necho \\n\n" for n in range(count)))
    done = subprocess.run(
        [*gdb, "-batch", "-x", str(script), str(path)], capture_output=True, text=True, check=True
    )
    return [int(line, 16) for line in done.stdout.split() if line.startswith("0x")]


def statics_by_drgn(path: Path, count: int) -> list[int]:
    """The same by drgn, over a program that has that memory and nothing else."""
    import drgn

    flags = drgn.PlatformFlags.IS_64_BIT | drgn.PlatformFlags.IS_LITTLE_ENDIAN
    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64, flags))
    memory, at = programs.MEMORY, programs.MEMORY_AT

    def read(address: int, length: int, offset: int, physical: bool) -> bytes:
        return memory[offset : offset + length]

    program.add_memory_segment(at, len(memory), read)
    program.extra_module("kernel", create=True).try_file(str(path), force=True)
    return [program.variable(f"S{n}").value_() & (1 << 64) - 1 for n in range(count)]
