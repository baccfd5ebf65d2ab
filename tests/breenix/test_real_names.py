"""Names, processes and frames of the user's own Breenix, against gdb and against itself stripped.

Which kernel: see `test_real_breenix`. Without DWARF in its ELF the typed readers have to say so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.snapshot.opening import read_snapshot
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.targets.checkout import find_build
from breenix_gdbagent.x86.roots import scan_roots
from tests.breenix.test_real_breenix import SECONDS, TARGET, pytestmark
from tests.gdb import gdb_command
from tests.guest.labrun import agent

__all__ = ["pytestmark"]
PLACES = ("kernel::serial::_print", "kernel::memory::frame_allocator::allocate_frame")


def _elf() -> Path:
    if "--kernel" in TARGET:
        return Path(TARGET[TARGET.index("--kernel") + 1])
    return find_build(Path(TARGET[1]), None).kernel


@pytest.fixture(scope="module", params=["Process management initialized", *PLACES])
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot at a marker or at a function."""
    if "::" in request.param and not Image.open(_elf()).addresses_of(request.param):
        pytest.skip(f"this kernel has no {request.param}: inlined")
    file = tmp_path_factory.mktemp("names") / "stop"
    where = "--at" if "::" in request.param else "--until"
    result = agent("snapshot", *TARGET, where, request.param, "--timeout", SECONDS, "-o", str(file))
    assert result.code in (0, 1), result.err
    return file


@pytest.fixture(scope="module")
def stripped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel as cargo builds it: symbols, and neither DWARF nor call-frame information."""
    if shutil.which("objcopy") is None:
        pytest.skip("no objcopy on this machine")
    out = tmp_path_factory.mktemp("names") / "stripped"
    subprocess.run(
        ["objcopy", "--strip-debug", "--remove-section", ".eh_frame", str(_elf()), str(out)],
        check=True,
    )
    return out


def _pcs(file: Path, elf: Path) -> list[str]:
    (trace,) = json.loads(agent("bt", "--snapshot", str(file), "--kernel", str(elf), "--json").out)
    return [frame["pc"] for frame in trace["frames"]]


def test_frames_are_the_same_without_dwarf(stopped: Path, stripped: Path) -> None:
    with_dwarf = _pcs(stopped, _elf())
    assert len(with_dwarf) > 1
    assert _pcs(stopped, stripped) == with_dwarf


def test_frames_are_gdbs(stopped: Path) -> None:
    """Up to where gdb has no call-frame information: an assembly entry, a switched stack."""
    if shutil.which("gdb") is None:
        pytest.skip("no gdb on this machine")
    if not Image.open(_elf()).has_dwarf:
        pytest.skip("this kernel has no DWARF for gdb")
    ours = _pcs(stopped, _elf())
    script = (
        "python f = gdb.newest_frame()\n"
        "while f is not None and f.pc():\n"
        "  if f.type() != gdb.INLINE_FRAME: print('PC', hex(f.pc()), f.name())\n"
        "  f = f.older()\n"
    )
    file = stopped.with_suffix(".gdb")
    file.write_text("python\n" + script.removeprefix("python ") + "end\n")
    done = subprocess.run(
        gdb_command("-batch", str(_elf()), str(stopped), "-x", str(file)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    rows = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("PC ")]
    known = []
    for pc, name in rows:
        known.append(pc)
        if name.endswith("_entry") or "switch_stack" in name:
            break
    assert known and ours[: len(known)] == known


def test_every_process_is_a_root_that_the_scan_finds(stopped: Path) -> None:
    from_file = ("--snapshot", str(stopped), "--kernel", str(_elf()), "--json")
    rows = agent("ps", *from_file)
    if not Image.open(_elf()).has_dwarf:
        assert all(row["root"] and row["state"] is None for row in json.loads(rows.out))
        return
    if rows.code == 1 and "process manager" in rows.out:
        pytest.skip("the kernel has made no process table yet")
    listed = {row["root"] for row in json.loads(rows.out) if row["root"] is not None}
    stop = read_snapshot(stopped, None).stop
    kernel = Kernel(stop)
    assert kernel.reference_root is not None
    scanned = {hex(c.root) for c in scan_roots(stop.memory, kernel.reference_root)}
    assert listed <= scanned
    for command in ("threads", "heap", "frames"):
        assert agent(command, *from_file).code == 0, command
