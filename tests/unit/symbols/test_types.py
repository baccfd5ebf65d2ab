"""Type layouts against gdb's, and what rustc does not write against the standard."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from breenix_gdbagent.errors import InputError, SymbolNotFound, ValueCorrupt
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.types import describe, only_member
from breenix_gdbagent.symbols.values import Values
from tests.gdb import gdb_command
from tests.writers.dwarf import Die, Unit, Writer, sleb, uleb
from tests.writers.elf import Elf, text

GDB = """
import gdb, json
out = {}
for name in json.load(open(NAMES)):
    try:
        t = gdb.lookup_type(name)
        fields = [(f.name, f.bitpos // 8, str(f.type.sizeof)) for f in t.fields()
                  if hasattr(f, "bitpos") and f.name]
    except (gdb.error, RuntimeError, TypeError):
        continue
    out[name] = [t.sizeof, sorted(fields)]
json.dump(out, open(OUT, "w"))
"""


def test_struct_layouts_equal_gdbs(
    labguest: Image, labguest_path: Path, tool: Callable[[str], str], tmp_path: Path
) -> None:
    """Every plain struct: size, names, offsets, sizes of fields (`lookup_type().fields()`)."""
    tool("gdb")
    types = labguest.debug.types
    structs = {p: types.named(p) for p in types.index.types}
    structs = {p: t for p, t in structs.items() if t.kind == "struct" and t.members}
    # Several vtables share a path, and gdb may have taken another one.
    structs = {p: t for p, t in structs.items() if "{vtable" not in p}
    names, out, script = (tmp_path / n for n in ("names", "out", "script.py"))
    names.write_text(json.dumps(sorted(structs)))
    script.write_text(GDB.replace("NAMES", repr(str(names))).replace("OUT", repr(str(out))))
    subprocess.run(gdb_command("-batch", "-x", str(script), str(labguest_path)), check=True,
                   capture_output=True, timeout=100)  # fmt: skip
    theirs = json.loads(out.read_text())
    compared = 0
    for path, (size, fields) in theirs.items():
        ours = structs[path]
        assert ours.size == size, path
        # gdb names a tuple's fields without the underscores that DWARF has.
        have = sorted(
            [m.name.removeprefix("__"), m.offset, str(types.at(m.type).size)] for m in ours.members
        )
        assert have == [[n.removeprefix("__"), o, s] for n, o, s in fields], path
        compared += 1
    assert compared > 100


def test_every_type_of_the_lab_guest_resolves(labguest: Image) -> None:
    types = labguest.debug.types
    for path in types.index.types:
        type_ = types.named(path)
        assert type_.size < 1 << 32 and describe(types, type_)
        for field in type_.members:
            inner = types.at(field.type)
            # rustc gives the zero-sized type of a function item as a pointer of 8 bytes, and an
            # unsized tail as one item of it.
            if "fn(" not in inner.name and not path.endswith("]>"):
                assert field.offset + inner.size <= type_.size, path


def test_names(labguest: Image) -> None:
    types = labguest.debug.types
    process = types.named("kernel::process::process::Process")
    assert types.path(process) == "kernel::process::process::Process"
    assert "kernel::process::process::Process" in set(types.find("process::Process"))
    with pytest.raises(SymbolNotFound):
        types.named("kernel::process::process::Proces")


class Made:
    """An ELF of DIEs of our own, and values in memory of our own at 0x10000."""

    def __init__(self, tmp_path: Path, *dies: Die, version: int = 4) -> None:
        root = Die(0x11, [(0x03, 0x08, "unit.rs")], list(dies))
        elf = Elf([text(bytes(64)), *Writer().sections(Unit(root, version))])
        path = tmp_path / "made"
        path.write_bytes(elf.build())
        self.image = Image.open(path)
        self.memory = b""
        self.values = Values(self.image.loaded(0), self.read)

    def read(self, va: int, length: int) -> bytes:
        assert va >= 0x10000 and va + length <= 0x11000
        return self.memory.ljust(0x1000, b"\0")[va - 0x10000 :][:length]


def base(name: str, size: int, encoding: int) -> Die:
    return Die(0x24, [(0x03, 0x08, name), (0x0B, 0x0B, size), (0x3E, 0x0B, encoding)])


def member(name: str, type_: Die, offset: int) -> Die:
    return Die(0x0D, [(0x03, 0x08, name), (0x49, 0x10, type_), (0x38, 0x0B, offset)])


def tagged(tag: Die, *variants: tuple[str, list[tuple[int, int, object]]]) -> Die:
    discriminant = Die(0x0D, [(0x49, 0x10, tag), (0x38, 0x0B, 0)])
    payload = Die(0x13, [(0x03, 0x08, "P"), (0x0B, 0x0B, 0)])
    parts = [Die(0x19, attributes, [member(n, payload, 0)]) for n, attributes in variants]
    part = Die(0x33, [(0x15, 0x10, discriminant)], [discriminant, *parts])
    return Die(0x13, [(0x03, 0x08, "E"), (0x0B, 0x0B, 16)], [part, payload])


def test_discriminant_list(tmp_path: Path) -> None:
    listed = b"\x00" + uleb(7) + b"\x01" + uleb(10) + uleb(200)
    tag = base("u8", 1, 7)
    enum = tagged(tag, ("Many", [(0x3D, 0x0A, listed)]), ("One", [(0x16, 0x0B, 1)]))
    made = Made(tmp_path, tag, enum)
    for byte, name in ((7, "Many"), (10, "Many"), (200, "Many"), (1, "One")):
        made.memory = bytes([byte])
        value = Values(made.image.loaded(0), made.read).at("E", 0x10000)
        assert value.variant()[0] == name
    made.memory = b"\xc9"
    with pytest.raises(ValueCorrupt, match="tag 201 is none of its 2 variants"):
        Values(made.image.loaded(0), made.read).at("E", 0x10000).variant()


def test_signed_discriminant_list(tmp_path: Path) -> None:
    listed = b"\x01" + sleb(-100) + sleb(-3)
    tag = base("i32", 4, 5)
    enum = tagged(tag, ("Low", [(0x3D, 0x0A, listed)]), ("One", [(0x16, 0x0D, -2)]))
    made = Made(tmp_path, tag, enum)
    # Ranges of signed tags are stored as they are in memory; -100..=-3 does not wrap there.
    made.memory = (-50).to_bytes(4, "little", signed=True)
    assert made.values.at("E", 0x10000).variant()[0] == "Low"


@pytest.mark.parametrize("form", [0x0A, 0x1E])
def test_discriminants_of_16_bytes(tmp_path: Path, form: int) -> None:
    big = (1 << 80).to_bytes(16, "little")
    tag = base("u128", 16, 7)
    enum = tagged(tag, ("Big", [(0x16, form, big)]), ("One", [(0x16, 0x0B, 1)]))
    made = Made(tmp_path, tag, enum)
    made.memory = big
    assert made.values.at("E", 0x10000).variant()[0] == "Big"


def test_types_that_name_each_other_in_a_circle(tmp_path: Path) -> None:
    first = Die(0x16, [(0x03, 0x08, "a")])
    second = Die(0x16, [(0x03, 0x08, "b"), (0x49, 0x10, first)])
    first.attributes.append((0x49, 0x10, second))
    outer = Die(0x13, [(0x03, 0x08, "S"), (0x0B, 0x0B, 8)], [member("x", first, 0)])
    made = Made(tmp_path, first, second, outer)
    types = made.image.debug.types
    with pytest.raises(InputError, match=r"\.debug_info .* circle"):
        only_member(types, types.named("S"))


def test_a_reference_out_of_the_section(tmp_path: Path) -> None:
    lost = Die(0x16, [(0x03, 0x08, "t"), (0x49, 0x06, 0x7FFFFFFF)])
    outer = Die(0x13, [(0x03, 0x08, "S"), (0x0B, 0x0B, 8)], [member("x", lost, 0)])
    made = Made(tmp_path, lost, outer)
    types = made.image.debug.types
    with pytest.raises(InputError, match=r"section \.debug_info of .* refers to 0x7fffffff"):
        types.at(types.named("S").members[0].type)
