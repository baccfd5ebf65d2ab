"""Other tools on the same stop: a DWARF walk by pyelftools, gdb-pt-dump and gef where they are."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from breenix_gdbagent.guest import elf
from breenix_gdbagent.symbols.dwarf import Dwarf
from breenix_gdbagent.symbols.dwarf_index import DwarfIndex
from breenix_gdbagent.symbols.elf import ElfFile
from tests.bench.harness import Row, absent, measured, median_ms
from tests.bench.live import rig

CHECKOUTS = {"gdb-pt-dump": ("pt.py", "pt"), "gef": ("gef.py", "pagewalk")}


def rows(peers: Path | None) -> Iterator[Row]:
    """One row a peer, absent by name when `peers` has no checkout of it."""
    yield _dwarf()
    for name, (script, command) in CHECKOUTS.items():
        place = peers / name / script if peers is not None else None
        if place is None or not place.is_file():
            yield absent("one space, merged ranges", name, "ms", ">=", 25.0)
            continue
        yield _dump(name, place, command)


def _dwarf() -> Row:
    from elftools.elf.elffile import ELFFile

    path = elf(False)
    ours = median_ms(lambda: DwarfIndex.build(Dwarf(ElfFile(path))), 3)
    start = time.perf_counter()
    with path.open("rb") as file:
        info = ELFFile(file).get_dwarf_info()
        count = sum(1 for unit in info.iter_CUs() for _ in unit.iter_DIEs())
    theirs = (time.perf_counter() - start) * 1000
    assert count
    return measured("DWARF index", ours, "pyelftools, all DIEs", theirs, "ms", ">=", 20.0)


def _dump(name: str, script: Path, command: str) -> Row:
    """What gdb needs for the command beyond what it needs to start and connect."""
    from breenix_gdbagent.live import attach
    from breenix_gdbagent.stop import StopReason
    from breenix_gdbagent.x86.paging import Tables
    from breenix_gdbagent.x86.spaces import Spaces

    with rig() as there:
        with attach(there.gdb, there.qmp, there.ram) as vm:
            stop = vm.stop(StopReason("attached"))
            root = stop.cpu.root or 0
            ours = median_ms(lambda: Spaces(Tables(stop.memory), 4, True).space(root))
        timed = (
            "python import time; t = time.perf_counter(); "
            f"gdb.execute('{command}', to_string=True); "
            "print('TOOK', (time.perf_counter() - t) * 1000)"
        )
        done = subprocess.run(
            ["gdb", "-nx", "-batch", "-ex", "set architecture i386:x86-64", "-ex",
             f"target remote {there.gdb[5:]}", "-ex", f"source {script}", "-ex", timed, "-ex",
             "disconnect"],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    took = re.search(r"TOOK ([0-9.]+)", done.stdout)
    if took is None:
        return absent("one space, merged ranges", f"{name} (it failed here)", "ms", ">=", 25.0)
    return measured("one space, merged ranges", ours, name, float(took[1]), "ms", ">=", 25.0)
