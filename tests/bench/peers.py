"""Other tools on the same stop: a DWARF walk by pyelftools, gdb-pt-dump and gef where they are."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from breenix_gdbagent.lab import elf
from breenix_gdbagent.symbols.dwarf import Dwarf
from breenix_gdbagent.symbols.dwarf_index import DwarfIndex
from breenix_gdbagent.symbols.elf import ElfFile
from tests.bench.harness import Row, absent, cpu, judged, pairs
from tests.bench.live import rig
from tests.bench.spaces import NAME, own_space
from tests.gdb import gdb_command

_RANGE = re.compile("0x[0-9a-f]{6,}.*[RWX]", re.IGNORECASE)
CHECKOUTS = {"gdb-pt-dump": ("pt.py", "pt"), "gef": ("gef.py", "pagewalk")}


def rows(peers: Path | None) -> Iterator[Row]:
    """One row a peer, absent by name when `peers` has no checkout of it."""
    yield _dwarf()
    for name, (script, command) in CHECKOUTS.items():
        place = peers / name / script if peers is not None else None
        if place is None or not place.is_file():
            yield absent(NAME, name, "ms", ">=", 25.0)
            continue
        yield _dump(name, place, command)


def all_dies(path: Path) -> None:
    """Every DIE of an ELF, by pyelftools."""
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        info = ELFFile(file).get_dwarf_info()
        assert sum(1 for unit in info.iter_CUs() for _ in unit.iter_DIEs())


def _dwarf() -> Row:
    path = elf(False)
    both = pairs(
        cpu(lambda: DwarfIndex.build(Dwarf(ElfFile(path)))), cpu(lambda: all_dies(path)), 3
    )
    return judged("DWARF index", both, "pyelftools, all DIEs", "ms", ">=", 15.0)


def _dump(name: str, script: Path, command: str) -> Row:
    """What gdb needs for the command beyond what it needs to start and connect."""
    from breenix_gdbagent.live import attach
    from breenix_gdbagent.stop import StopReason

    with rig() as there:
        with attach(there.gdb, there.qmp, there.ram) as vm:
            stop = vm.stop(StopReason("attached"))
        once, ranges = own_space(stop)
        timed = (
            "python import time; t = time.process_time(); "
            f"o = gdb.execute('{command}', to_string=True); "
            "t = time.process_time() - t; print(o); print('TOOK', t * 1000)"
        )
        done = subprocess.run(
            gdb_command("-batch", "-ex", "set architecture i386:x86-64", "-ex",
                        f"source {script}", "-ex", f"target remote {there.gdb[5:]}",
                        *(["-ex", timed] * 3), "-ex", "disconnect"),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    shown = done.stdout.split("TOOK ")
    told = sum(1 for line in shown[0].splitlines() if _RANGE.search(line))
    if len(shown) < 2 or not told:
        return absent(NAME, f"{name} (`{command}` fails here)", "ms", ">=", 25.0)
    theirs = iter([float(text.split()[0]) for text in shown[1:]])
    against = f"{name}: {told} ranges for our {ranges}"
    both = pairs(cpu(once), lambda: next(theirs), 3, warm=False)
    return judged(NAME, both, against, "ms", ">=", 25.0)
