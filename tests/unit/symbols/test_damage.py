"""Damaged and truncated DWARF: an error that names the section; never a hang or a traceback."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.types import describe
from breenix_gdbagent.symbols.values import Values
from tests.writers.dwarf import Die, Unit, Writer
from tests.writers.elf import Elf, Sec, text

SECTIONS = (".debug_info", ".debug_abbrev", ".debug_str", ".debug_line", ".debug_ranges",
            ".debug_aranges", ".debug_frame", ".eh_frame")  # fmt: skip


def use_everything(image: Image, places: list[int], types: int) -> None:
    """Every reader of DWARF once, each allowed to refuse on its own."""
    with_refusals = [
        lambda: image.debug.index,
        lambda: [image.debug.lines.at(p) for p in places],
        lambda: [image.frames.rules(p) for p in places],
        lambda: _types(image, types),
        lambda: _statics(image),
    ]
    refused: list[InputError] = []
    for use in with_refusals:
        try:
            use()
        except InputError as error:
            refused.append(error)
    if refused:
        for error in refused:
            assert "section ." in error.what and "\n" not in error.what, error
        raise refused[0]


def _types(image: Image, count: int) -> None:
    table = image.debug.types
    for path in list(table.index.types)[:count]:
        describe(table, table.named(path))


def _statics(image: Image) -> None:
    def read(va: int, length: int) -> bytes:
        raise ReadError(f"nothing at {va:#x}")

    values = Values(image.loaded(0), read)
    for path in list(values.debug.index.statics)[:40]:
        try:
            values.static(path).raw()
        except ReadError:
            continue
        except InputError as error:
            if "names" not in error.what:
                raise


def damage(rng: random.Random, data: bytearray, section: tuple[int, int]) -> None:
    start, size = section
    for _ in range(rng.choice((1, 4, 32))):
        value = rng.choice((0, 0xFF, 0x80, 0x7F, rng.randrange(256)))
        data[start + rng.randrange(size)] = value


@pytest.mark.parametrize("name", SECTIONS)
def test_damage_in_one_section(labguest: Image, tmp_path: Path, name: str) -> None:
    section = labguest.elf.section(name)
    if section is None:
        pytest.skip(f"the lab guest has no {name}")
    good = labguest.path.read_bytes()
    places = [s.address + 3 for s in labguest.symbols.symbols if s.kind == "function"][::40]
    rng = random.Random(name)
    for number in range(2):
        data = bytearray(good)
        damage(rng, data, (section.offset, section.size))
        path = tmp_path / f"kernel{number}"
        path.write_bytes(data)
        with contextlib.suppress(InputError):
            use_everything(Image.open(path), places, 60)


@pytest.mark.parametrize("name", SECTIONS[:3])
def test_a_section_cut_short(labguest: Image, tmp_path: Path, name: str) -> None:
    """The section header says less than there was."""
    good = labguest.path.read_bytes()
    section = labguest.elf.section(name)
    assert section is not None
    row = next(
        i for i, s in enumerate(labguest.elf.sections) if s.name == name
    ) * 64 + int.from_bytes(good[40:48], "little")
    data = bytearray(good)
    data[row + 32 : row + 40] = (section.size // 3).to_bytes(8, "little")
    path = tmp_path / "kernel"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"section \.debug_"):
        use_everything(Image.open(path), [labguest.entry], 1000)


def small() -> list[Sec]:
    u8 = Die(0x24, [(0x03, 0x0E, "u8"), (0x0B, 0x0B, 1), (0x3E, 0x0B, 7)])
    tag = Die(0x0D, [(0x49, 0x10, u8), (0x38, 0x0B, 0)])
    some = Die(0x13, [(0x03, 0x0E, "Some"), (0x0B, 0x0B, 2)],
               [Die(0x0D, [(0x03, 0x0E, "__0"), (0x49, 0x10, u8), (0x38, 0x0B, 1)])])  # fmt: skip
    part = Die(0x33, [(0x15, 0x10, tag)], [
        tag,
        Die(0x19, [(0x16, 0x0B, 1)], [Die(0x0D, [(0x49, 0x10, some), (0x38, 0x0B, 0)])]),
        Die(0x19, [], [Die(0x0D, [(0x49, 0x10, some), (0x38, 0x0B, 0)])]),
    ])  # fmt: skip
    option = Die(0x13, [(0x03, 0x1A, "Option"), (0x0B, 0x0B, 2)], [part, some])
    array = Die(0x01, [(0x49, 0x10, option)], [Die(0x21, [(0x37, 0x05, 7)])])
    static = Die(
        0x34,
        [
            (0x03, 0x08, "S"),
            (0x49, 0x10, array),
            (0x02, 0x18, b"\x03\x00\x10" + bytes(6) + b"\x94\x01\x9f\x93\x08"),
        ],
    )
    function = Die(0x2E, [(0x03, 0x0E, "f"), (0x11, 0x01, 0x1000), (0x12, 0x06, 64)],
                   [Die(0x1D, [(0x11, 0x01, 0x1008), (0x12, 0x06, 8)])])  # fmt: skip
    space = Die(0x39, [(0x03, 0x0E, "k")], [u8, option, array, static, function])
    root = Die(0x11, [(0x03, 0x1F, "unit.rs"), (0x11, 0x01, 0x1000), (0x12, 0x06, 64)], [space])
    return Writer().sections(Unit(root, 5))


def test_hundreds_of_small_damages(tmp_path: Path) -> None:
    """All of a small DWARF is damaged in turn: headers, forms, references, tags."""
    sections = small()
    good = Elf([text(bytes(64)), *sections]).build()
    path = tmp_path / "good"
    path.write_bytes(good)
    image = Image.open(path)
    use_everything(image, [0x1009], 10)
    assert "k::Option" in image.debug.index.types
    rng = random.Random(17)
    refused = 0
    for number in range(400):
        broken = [Sec(s.name, bytearray(s.data)) for s in sections]  # type: ignore[arg-type]
        victim = rng.choice(broken[:2] if number % 4 else broken)
        data = victim.data
        assert isinstance(data, bytearray)
        damage(rng, data, (0, len(data)))
        if number % 5 == 0:
            del data[rng.randrange(len(data)) :]
        path = tmp_path / f"kernel{number}"
        path.write_bytes(Elf([text(bytes(64)), *broken]).build())
        try:
            use_everything(Image.open(path), [0x1009, 0x1010], 10)
        except InputError:
            refused += 1
    assert refused > 100
