"""Lines and inline chains at hundreds of random places, as addr2line has them."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.dwarf import Dwarf
from breenix_gdbagent.symbols.line_program import read_program
from breenix_gdbagent.symbols.lines import LineTable


def random_places(image: Image, count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    functions = [
        s for s in image.symbols.symbols if s.kind == "function" and s.size and s.executable
    ]
    return [f.address + rng.randrange(f.size) for f in rng.choices(functions, k=count)]


def by_addr2line(program: list[str], path: Path, places: list[int]) -> dict[int, list[str]]:
    """function, file:line, function, file:line, ... of each place, innermost first."""
    out = subprocess.run(
        [*program, "-e", str(path)], input="\n".join(map(hex, places)), text=True,
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    found: dict[int, list[str]] = {}
    for line in out.splitlines():
        if re.fullmatch("0x[0-9a-f]+", line):
            here = found[int(line, 16)] = []
        elif line:
            here.append(re.sub(r" \(discriminator \d+\)", "", line))
    return found


def chain(table: LineTable, link: int, unknown: str = "?") -> list[str]:
    lines = []
    for spot in table.at(link):
        lines += [spot.raw, f"{spot.file or '??'}:{spot.line or unknown}"]
    return lines


def compare(image: Image, theirs: dict[int, list[str]], unknown: str = "?") -> int:
    """How many places were compared; all of them have to be equal.

    Where DWARF has nothing (assembly) addr2line falls back to the symbol table, and we say so.
    binutils 2.40 gives an inlined function without a linkage name that of the symbol around it,
    which is no name of ours to repeat: LLVM's symbolizer names it as we do.
    """
    compared = deepest = 0
    for link, expected in theirs.items():
        ours = chain(image.debug.lines, link, unknown)
        if not ours:
            assert expected[1].partition(":")[2] in ("?", "0"), hex(link)
            continue
        if len(ours) > 2 and expected[0] == expected[-2] and not ours[0].startswith("_"):
            ours = [expected[0], *ours[1:]]
        assert ours == expected, hex(link)
        compared += 1
        deepest = max(deepest, len(ours) // 2)
    assert deepest > 5, "no inlined calls among the places"
    return compared


def test_lab_guest_equals_addr2line(
    labguest: Image, labguest_path: Path, tool: Callable[[str], str]
) -> None:
    places = random_places(labguest, 400, 1)
    theirs = by_addr2line([tool("addr2line"), "-a", "-f", "-i"], labguest_path, places)
    assert compare(labguest, theirs) > 350


def test_demangled_names_equal_addr2lines(
    labguest: Image, labguest_path: Path, tool: Callable[[str], str]
) -> None:
    places = random_places(labguest, 60, 2)
    theirs = by_addr2line([tool("addr2line"), "-a", "-f", "-i", "-C"], labguest_path, places)
    for link, expected in theirs.items():
        for spot, name in zip(labguest.debug.lines.at(link), expected[::2], strict=False):
            if spot.inlined and name == expected[-2]:
                continue  # binutils 2.40 takes the symbol where DWARF has no linkage name
            plain = re.sub(r"\[[0-9a-f]{5,16}\]|(?<=\d): usize", "", name)
            plain = re.sub(r"<([\w:]+)>::", r"\1::", plain)
            ours = re.sub(r"<([\w:]+)>::", r"\1::", spot.function)
            assert ours == plain


def test_dwarf_4_and_5(shapes: Path, tool: Callable[[str], str]) -> None:
    """binutils 2.40 misreads file names of DWARF 5, so LLVM is the judge there."""
    image = Image.open(shapes)
    places = [
        p for p in random_places(image, 300, 3) if image.debug.lines.function_at(p) is not None
    ]
    if shapes.name == "shapes4":
        theirs = by_addr2line([tool("addr2line"), "-a", "-f", "-i"], shapes, places)
        assert compare(image, theirs) > 200
        return
    program = [tool("llvm-symbolizer"), "--output-style=GNU", "-a", "-f", "-i", "--no-demangle"]
    theirs = by_addr2line(program, shapes, places)
    compared = 0
    for link, expected in theirs.items():
        # LLVM names the outermost function by the symbol table, which folded code shares.
        ours = chain(image.debug.lines, link, "0")
        assert ours[1::2] == expected[1::2] and ours[:-2:2] == expected[:-2:2], hex(link)
        compared += 1
    assert compared > 200


def test_only_the_unit_of_the_place_is_read(labguest_path: Path) -> None:
    image = Image.open(labguest_path)
    table = image.debug.lines
    assert table.at(image.address_of("kernel_main") + 4)
    assert "index" not in image.debug.__dict__, "the whole index was built for one line"
    assert len(table._programs) == 1


def test_outside_of_everything(labguest: Image) -> None:
    assert labguest.debug.lines.at(0) == ()
    assert labguest.debug.lines.at(1 << 63) == ()
    assert labguest.debug.lines.line_at(0) == (None, None)


def test_damaged_line_programs_name_their_section(labguest_path: Path) -> None:
    good = Image.open(labguest_path)
    data = good.section_data(".debug_line")
    dwarf = Dwarf(good.elf)
    unit = next(dwarf.units())
    rng = random.Random(5)
    refused = 0
    for _ in range(300):
        broken = bytearray(data[:6000])
        for _ in range(rng.choice((1, 3, 10))):
            broken[rng.randrange(80)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        dwarf.__dict__["line"] = bytes(broken)
        try:
            read_program(dwarf, unit, 0, "/dir").at(0x4000)
        except InputError as error:
            refused += 1
            assert "section .debug_line of" in str(error)
    assert refused > 50


def test_each_opcode_of_a_line_program(labguest_path: Path) -> None:
    """DWARF 4, 6.2.5: each standard and extended opcode once, minimum_instruction_length 2."""
    set_address = b"\x00\x09\x02" + (0x1000).to_bytes(8, "little")
    code = (
        set_address
        + b"\x03\xc8\x00\x01"  # DW_LNS_advance_line +72, DW_LNS_copy: 0x1000 is line 73
        + b"\x02\x90\x01"  # DW_LNS_advance_pc 144: 288 bytes
        + b"\x03\x40"  # DW_LNS_advance_line -64: line 9
        + b"\x05\xc8\x01\x07\x0a\x0b\x0c\x81\x01"  # column, block, prologue, epilogue, ISA
        + b"\x00\x02\x04\x07"  # DW_LNE_set_discriminator
        + b"\x01"  # 0x1120 is line 9
        + b"\x00\x08\x03new\0\x00\x00\x00"  # DW_LNE_define_file: the third
        + b"\x04\x03\x06"  # DW_LNS_set_file 3, DW_LNS_negate_stmt
        + b"\x09\x2c\x01\x01"  # DW_LNS_fixed_advance_pc 300, not scaled: 0x124c, no statement
        + b"\x08\x01"  # DW_LNS_const_add_pc: what opcode 255 adds, 17 * 2 bytes: 0x126e
        + b"\x83"  # a special opcode: (131 - 13) // 14 = 8, 16 bytes; -3 + 118 % 14 = 3: line 12
        + b"\x00\x03\x80\x01\x02"  # an extended opcode of a vendor
        + b"\x02\x01\x00\x01\x01"  # DW_LNE_end_sequence at 0x1280
    )
    tables = b"\0" + b"one\0\0\0\0" + b"two\0\0\0\0" + b"\0"
    head = b"\x02\x01\x01\xfd\x0e\x0d" + bytes([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]) + tables
    body = b"\x04\0" + len(head).to_bytes(4, "little") + head + code
    dwarf = Dwarf(Image.open(labguest_path).elf)
    dwarf.__dict__["line"] = len(body).to_bytes(4, "little") + body
    program = read_program(dwarf, next(dwarf.units()), 0, "/dir")
    (found,) = program.sequences
    rows = zip(found.addresses, found.files, found.lines, found.statements, strict=True)
    assert list(rows) == [
        (0x1000, 1, 73, True),
        (0x1120, 1, 9, True),
        (0x124C, 3, 9, False),
        (0x126E, 3, 9, False),
        (0x127E, 3, 12, False),
    ]
    assert found.end == 0x1280
    assert program.files == {1: "/dir/one", 2: "/dir/two", 3: "/dir/new"}


@pytest.mark.parametrize("count", [b"\xff\xff\xff\xff\x7f", b"\xff" * 18 + b"\x01"])
def test_a_table_of_endless_files(labguest_path: Path, count: bytes) -> None:
    """DWARF 5 tables say how many entries they have; an entry may even be of size zero."""
    header = b"\x05\x00\x08\x00" + (40).to_bytes(4, "little") + b"\x01\x01\x01\xfb\x0e\x01"
    body = header + b"\x00" + count
    dwarf = Dwarf(Image.open(labguest_path).elf)
    dwarf.__dict__["line"] = (len(body) + 100).to_bytes(4, "little") + body + bytes(100)
    with pytest.raises(InputError, match=r"section \.debug_line of"):
        read_program(dwarf, next(dwarf.units()), 0, "")


def test_without_aranges(labguest: Image, labguest_path: Path) -> None:
    """Units are then found by the ranges of their root DIEs."""
    image = Image.open(labguest_path)
    image.debug.lines.__dict__["_listed"] = []
    places = random_places(labguest, 60, 4)
    answers = [image.debug.lines.at(p) for p in places]
    assert answers == [labguest.debug.lines.at(p) for p in places] and any(answers)
