"""What compilers here make of one small program: DWARF 4, 5 and mixed, split, both manglings."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from breenix_gdbagent.errors import SymbolNotFound
from breenix_gdbagent.symbols import Image

RUST = """
pub struct Kept { pub a: u32, pub b: Option<u64> }
pub static mut KEPT: Kept = Kept { a: 1, b: None };
pub mod inner { #[inline(never)] pub fn called<T: Copy>(x: T) -> T { std::hint::black_box(x) } }
fn main() { unsafe { KEPT.a = inner::called(std::env::args().count() as u32) } }
"""
C = """
struct s { int a; struct s *next; } from_c;
int in_c(struct s *p) { return p->a + from_c.a; }
"""
Tool = Callable[[str], str]


def _rust(tool: Tool, place: Path, *flags: str) -> Image:
    source = place / "small.rs"
    source.write_text(RUST)
    out = place / "small"
    command = [tool("rustc"), "-g", "-o", str(out), *flags, source.name]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    return Image.open(out)


@pytest.mark.parametrize("version", [4, 5])
def test_split_debug_information_is_named(tool: Tool, tmp_path: Path, version: int) -> None:
    flags = ("-C", f"dwarf-version={version}", "-C", "split-debuginfo=unpacked")
    image = _rust(tool, tmp_path, *flags)
    assert image.debug.index.split
    with pytest.raises(SymbolNotFound) as missing:
        image.debug.index.statics_named("small::KEPT")
    assert ".dwo files" in str(missing.value) and "split-debuginfo=off" in str(missing.value)
    (start,) = image.addresses_of("small::main")
    assert image.debug.lines.at(start) == (), "the symbol table has its name"


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("mangling", ["legacy", "v0"])
def test_names_types_and_lines(tool: Tool, tmp_path: Path, version: int, mangling: str) -> None:
    flags = ["-C", f"dwarf-version={version}"]
    if mangling == "v0":
        flags += ["-C", "symbol-mangling-version=v0"]
    image = _rust(tool, tmp_path, *flags)
    (start,) = image.addresses_of("small::main")
    hit = image.symbol_at(start)
    assert hit is not None and hit.name == "small::main"
    raw = next(s.raw for s in image.symbols.symbols if s.address == start and s.kind == "function")
    assert raw.startswith("_R" if mangling == "v0" else ("_ZN", "_R"))
    called = {s.name for s in image.find("called") if s.executable}
    assert called and all(name.startswith("small::inner::called") for name in called)
    spot = image.debug.lines.at(start)[-1]
    assert spot.function == "small::main" and spot.file is not None and spot.line == 5
    types = image.debug.types
    assert [m.name for m in types.named("small::Kept").members] != []
    assert len(image.debug.index.statics_named("small::KEPT")) == 1


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_c_of_any_version_beside_rust(tool: Tool, tmp_path: Path, version: int) -> None:
    """A kernel links C and assembly of other compilers, other versions of DWARF."""
    gcc = tool("gcc")
    (tmp_path / "c.c").write_text(C)
    flags = ["-g", f"-gdwarf-{version}", "-gstrict-dwarf", "-c", "-o", "c.o", "c.c"]
    subprocess.run([gcc, *flags], cwd=tmp_path, check=True)
    subprocess.run(["ar", "rcs", "libc_part.a", "c.o"], cwd=tmp_path, check=True)
    source = RUST.replace("fn main() {", "#[link(name = \"c_part\")] unsafe extern \"C\" "
                          "{ fn in_c(p: *const u8) -> i32; }\nfn main() { unsafe { "
                          "if KEPT.a > 9 { in_c(std::ptr::null()); } }")  # fmt: skip
    (tmp_path / "mixed.rs").write_text(source)
    command = [tool("rustc"), "-g", "-C", "dwarf-version=5", "-L", ".", "-o", "mixed", "mixed.rs"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    image = Image.open(tmp_path / "mixed")
    shape = image.debug.types.named("s")
    assert [(m.name, m.offset) for m in shape.members] == [("a", 0), ("next", 8)]
    (start,) = image.addresses_of("in_c")
    (spot,) = image.debug.lines.at(start)
    assert (spot.function, spot.line) == ("in_c", 3) and (spot.file or "").endswith("c.c")
    assert image.debug.types.named("mixed::Kept").size == 24
