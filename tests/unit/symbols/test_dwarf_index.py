"""The DWARF index against readelf's own reading of the same sections."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from breenix_gdbagent.errors import InputError, SymbolNotFound
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.dwarf import Dwarf
from breenix_gdbagent.symbols.dwarf_index import DwarfIndex
from tests.writers.dwarf import Die, Unit, Writer
from tests.writers.elf import Elf, text

_DIE = re.compile(r" <(\w+)><(\w+)>: Abbrev Number: \d+(?: \((DW_TAG_\w+)\))?")
_ATTRIBUTE = re.compile(r"\s+<\w+>\s+(DW_AT_\w+)\s*: (.*)")
_TYPES = {"structure", "union", "enumeration", "base"}


def entries(readelf: str, path: Path) -> list[tuple[int, int, str, dict[str, str]]]:
    """(depth, offset, tag, attributes) of every DIE, as readelf prints them."""
    out = subprocess.run(
        [readelf, "--debug-dump=info", str(path)], capture_output=True, check=True
    ).stdout.decode("utf-8", "replace")
    found: list[tuple[int, int, str, dict[str, str]]] = []
    for line in out.splitlines():
        die = _DIE.match(line)
        if die:
            tag = (die[3] or "").removeprefix("DW_TAG_")
            found.append((int(die[1], 16), int(die[2], 16), tag, {}))
            continue
        attribute = _ATTRIBUTE.match(line)
        if attribute and found:
            value = re.sub(r"^\((?:in)?direct [^)]*\): ", "", attribute[2])
            value = re.sub(r"^\(indexed string: [^)]*\): ", "", value)
            found[-1][3][attribute[1]] = value.strip()
    return found


def by_readelf(
    readelf: str, path: Path
) -> tuple[dict[str, set[int]], dict[str, set[int]], dict[str, set[int]], set[tuple[int, int]]]:
    """types, statics, subprograms by path, and live code ranges: another program's reading."""
    types: dict[str, set[int]] = {}
    statics: dict[str, set[int]] = {}
    paths: dict[str, set[int]] = {}
    code: set[tuple[int, int]] = set()
    stack: list[tuple[str, bool]] = []
    for depth, offset, tag, attributes in entries(readelf, path):
        if not tag:
            continue
        del stack[depth:]
        prefix, inside = stack[-1] if stack else ("", False)
        name = attributes.get("DW_AT_name", "")
        here = f"{prefix}::{name}" if prefix else name
        kind = tag.removesuffix("_type")
        if tag == "subprogram" and not inside:
            if name:
                paths.setdefault(here, set()).add(offset)
            low, high = attributes.get("DW_AT_low_pc", "0"), attributes.get("DW_AT_high_pc")
            if high and low.startswith("0x"):
                code.add((int(low, 16), int(low, 16) + int(high, 0)))
        elif not inside and name and "DW_AT_declaration" not in attributes:
            if kind in _TYPES:
                types.setdefault(here, set()).add(offset)
            elif tag == "variable":
                statics.setdefault(here, set()).add(offset)
        scope = kind in _TYPES or tag == "namespace"
        opaque = kind not in {*_TYPES, "namespace", "compile_unit", "variant_part", "variant"}
        stack.append((here if scope else prefix, inside or opaque))
    return types, statics, paths, {c for c in code if c[0] and c[0] < c[1]}


def check(readelf: str, path: Path) -> None:
    index = DwarfIndex.build(Dwarf(Image.open(path).elf))
    types, statics, paths, code = by_readelf(readelf, path)
    assert set(index.types) == set(types)
    assert all(die == min(types[name]) for name, die in index.types.items())
    assert {n: set(d) for n, d in index.statics.items()} == statics
    assert {n: set(d) for n, d in index.paths.items()} == paths
    assert code <= {(fn.low, fn.high) for fn in index.functions}
    assert len(types) > 100 and len(code) > 50


def test_lab_guest_as_readelf_has_it(labguest_path: Path, tool: Callable[[str], str]) -> None:
    check(tool("readelf"), labguest_path)


def test_mixed_versions_give_the_same_names(shapes: Path) -> None:
    """std is DWARF 4 in both; the program itself is 4 in one and 5 in the other."""
    image = Image.open(shapes)
    versions = {unit.version for unit in image.debug.dwarf.units()}
    assert versions == ({4} if shapes.name == "shapes4" else {4, 5})
    index = image.debug.index
    assert {f"shapes::{n}" for n in ("Foo", "Payload", "State", "Wide", "Everything")} <= set(
        index.types
    )
    assert "core::option::Option<u64>::Some" in index.types
    assert index.statics_named("shapes::MUTEX") == index.statics_named("MUTEX")
    assert len(index.statics_named("COUNTER")) == 2
    with pytest.raises(SymbolNotFound) as caught:
        index.type_named("shapes::Payloda")
    assert "shapes::Payload" in caught.value.near


def test_functions_by_address(labguest: Image) -> None:
    index = labguest.debug.index
    for symbol in labguest.symbols.symbols:
        function = index.function_at(symbol.address + 1)
        if symbol.kind == "function" and symbol.size > 1 and function is not None:
            assert function.low <= symbol.address + 1 < function.high


BASE = (0x24, [(0x03, 0x0E, "u8"), (0x0B, 0x0B, 1), (0x3E, 0x0B, 7)])


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("form", [0x08, 0x0E, 0x1A, 0x1F, 0x25, 0x26, 0x27, 0x28, 0x16])
def test_every_string_form(tmp_path: Path, version: int, wide: bool, form: int) -> None:
    def name(text_: str) -> tuple[int, int, object]:
        return (0x03, form, (0x08, text_) if form == 0x16 else text_)

    inner = Die(0x13, [name("Inner"), (0x0B, 0x0F, 1)], [Die(0x0D, [name("x")])])
    function = Die(
        0x2E, [name("run"), (0x11, 0x01, 0x1000), (0x12, 0x06, 0x20)],
        [Die(0x0B, [], [Die(0x34, [name("local"), (0x02, 0x18, b"\x91\x10")])])],
    )  # fmt: skip
    static = Die(0x34, [(0x02, 0x18, b"\x03" + bytes(8)), name("S")])
    root = Die(0x11, [name("unit.rs")], [Die(0x39, [name("k")], [function, inner, static])])
    writer = Writer()
    elf = Elf([text(bytes(64)), *writer.sections(Unit(root, version, wide))])
    path = tmp_path / "kernel"
    path.write_bytes(elf.build())
    index = DwarfIndex.build(Dwarf(Image.open(path).elf))
    assert index.types == {"k::Inner": inner.offset}
    assert index.statics == {"k::S": [static.offset]}
    assert index.paths == {"k::run": [function.offset]}
    assert [(fn.low, fn.high) for fn in index.functions] == [(0x1000, 0x1020)]


def test_no_dwarf(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(Elf([text(bytes(64))]).build())
    with pytest.raises(InputError, match="no debug information"):
        _ = Image.open(path).debug
