"""Figures on a large kernel: the lab guest built here with thousands of Rust types more."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from breenix_gdbagent.symbols.dwarf import Dwarf
from breenix_gdbagent.symbols.dwarf_index import DwarfIndex
from breenix_gdbagent.symbols.elf import ElfFile
from tests.bench.harness import Row, absent, bounded, cpu, judged, pairs, peak_mib, process_cpu
from tests.bench.peers import all_dies
from tests.gdb import gdb_command

GUEST = Path(__file__).parents[2] / "fixtures" / "labguest"
TYPES = 520
LEAST = 12 << 20  # bytes of the ELF
INDEX = "DWARF index of a 12 MB ELF"
GROWTH = "memory of that index"
BT = "first bt on a 12 MB ELF, CPU time of the whole process"
_TYPE = """
pub struct S{n}<T> {{ pub a: [u{bits}; {n}], pub next: Option<Box<S{n}<T>>>, pub held: E{n}<T> }}
pub enum E{n}<T> {{ Empty, Many(Vec<T>), Pair {{ left: T, right: u{bits} }}, Text(String) }}
type M{n} = BTreeMap<u{bits}, S{n}<Option<(u8, String)>>>;
#[inline(never)]
pub fn f{n}(m: &M{n}, q: &VecDeque<E{n}<u{bits}>>) -> usize {{
    m.len() + q.iter().filter(|e| matches!(e, E{n}::Pair {{ .. }})).count() + {n}
}}
#[used]
static USED{n}: fn(&M{n}, &VecDeque<E{n}<u{bits}>>) -> usize = f{n};
"""


def rows() -> Iterator[Row]:
    """All figures of this file, absent by name where the ELF cannot be built."""
    with tempfile.TemporaryDirectory() as name:
        elf = _build(Path(name))
        if elf is None:
            yield absent(INDEX, "pyelftools, all DIEs (cargo)", "ms", ">=", 15.0)
            yield absent(BT, "gdb -batch bt (cargo)", "ms", ">=", 1.0)
            return
        yield from _index(elf)
        yield _first_bt(elf, Path(name) / "stop")


def _build(place: Path) -> Path | None:
    """The lab guest with the generated module; None where it cannot be built here."""
    if shutil.which("cargo") is None:
        return None
    source = place / "labguest"
    shutil.copytree(GUEST, source, ignore=shutil.ignore_patterns("target"))
    body = "".join(_TYPE.format(n=n, bits=(8, 16, 32, 64)[n % 4]) for n in range(1, TYPES + 1))
    (source / "src" / "generated.rs").write_text(
        "//! Made by the bench.\n#![allow(dead_code)]\nuse alloc::boxed::Box;\n"
        "use alloc::collections::{BTreeMap, VecDeque};\nuse alloc::string::String;\n"
        "use alloc::vec::Vec;\n" + body
    )
    main = source / "src" / "main.rs"
    main.write_text(main.read_text().replace("mod gdt;", "mod gdt;\nmod generated;", 1))
    script = (source / "build.sh").read_text().partition("# The table of scenarios")[0]
    (source / "build.sh").write_text(script)
    built = subprocess.run(
        ["sh", "build.sh", str(place / "out")],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    elf = place / "out" / "labguest.elf"
    if built.returncode or not elf.is_file():
        print(built.stderr[-2000:], file=sys.stderr)
        return None
    assert elf.stat().st_size >= LEAST, f"only {elf.stat().st_size} bytes: raise TYPES"
    return elf


def _index(elf: Path) -> Iterator[Row]:
    both = pairs(
        cpu(lambda: DwarfIndex.build(Dwarf(ElfFile(elf)))),
        cpu(lambda: all_dies(elf)),
        1,
        warm=False,
    )
    yield judged(INDEX, both, "pyelftools, all DIEs", "ms", ">=", 15.0)
    grown = subprocess.run(
        [sys.executable, "-m", "tests.bench.generated", str(elf)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    yield bounded(GROWTH, float(grown.stdout), 40.0)


def _grow(elf: Path) -> None:
    """Prints by how many MiB an index makes the peak of a process higher that had nothing."""
    dwarf = Dwarf(ElfFile(elf))
    before = peak_mib()
    DwarfIndex.build(dwarf)
    print(peak_mib() - before)


def _first_bt(elf: Path, file: Path) -> Row:
    """A fault in a recursion, from the snapshot: both tools with everything cold in the process."""
    from breenix_gdbagent import lab
    from breenix_gdbagent.checks.run import RunFacts
    from breenix_gdbagent.debugger.debugger import Debugger
    from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
    from breenix_gdbagent.live import launch
    from breenix_gdbagent.report.document import History, RunRecord
    from breenix_gdbagent.run_report import save
    from breenix_gdbagent.symbols import Image

    with launch("lab", kernel=elf, append=lab.scenario("panic").append) as vm:
        run = GuardedRun(Debugger(vm, Image.open(elf)), Orders(timeout=60))
        run.start()
        kernel = run.go().kernel
        save(file, kernel, "kernel", {}, RunRecord(), RunFacts(), History(), {})
    if shutil.which("gdb") is None:
        return absent(BT, "gdb -batch bt", "ms", ">=", 1.0)
    ours = [sys.executable, "-m", "breenix_gdbagent", "bt", "--snapshot", str(file)]
    both = pairs(
        process_cpu(*ours, "--kernel", str(elf)),
        process_cpu(*gdb_command("-batch", "-ex", "bt", str(elf), str(file))),
    )
    return judged(BT, both, "gdb -batch bt", "ms", ">=", 1.0)


if __name__ == "__main__":
    _grow(Path(sys.argv[1]))
