"""Frames, arguments and locals: gdb on the same stop is the judge, inlined calls included."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import breenix_gdbagent as ba
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.symbols.values import Value
from breenix_gdbagent.symbols.variables import Variable, scopes
from tests.gdb import gdb_command
from tests.guest.debugged import BASE
from tests.guest.live_support import ELF, needs_qemu

pytestmark = [needs_qemu, pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")]

PLACES = (
    "kernel::interrupts::handlers::syscall",
    "kernel::process::with_manager",
    "kernel::scenarios::probes::recurse",
    "kernel::task::scheduler::schedule",
)
"""Where the guest is stopped; one that the kernel does not have is passed over by name."""
STEPS = 25


def test_variables_are_gdbs(tmp_path: Path) -> None:
    compared = gone = 0
    with ba.launch(lab="guard-page", deterministic=True) as vm:
        places = [place for place in PLACES if _known(vm, place)]
        assert len(places) >= 2
        for number, place in enumerate(places):
            vm.run_until(place)
            vm.stepi(STEPS)
            file = vm.save(tmp_path / f"stop{number}", "kernel")
            told = _ours(vm.kernel)
            judged = _gdbs(file)
            same, lost = _agree(told, judged)
            compared += same
            gone += lost
    assert compared >= 20, (compared, gone)
    assert gone >= 1


def _known(vm: ba.Vm, place: str) -> bool:
    image = vm._debugger.image
    return image is not None and bool(image.addresses_of(place))


def _ours(kernel: ba.Kernel) -> list[tuple[int, str, dict[str, Variable]]]:
    values, found = kernel.structures.values, []
    for frame in ba.backtrace(kernel).frames:
        if frame.vector is not None or frame.ring:
            break  # gdb goes astray at interrupts, or has other names there
        found += [
            (int(frame.pc), scope.function, {v.name: v for v in reversed(scope.variables)})
            for scope in scopes(values, frame)
        ]
    return found


def _gdbs(file: Path) -> list[dict[str, Any]]:
    script = Path(__file__).parent / "gdb_frames.py"
    said = subprocess.run(
        gdb_command(
            "-batch", "-ex", f"symbol-file -o {BASE:#x} {ELF}", "-ex", f"core-file {file}",
            "-x", str(script),
        ),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    lines = [line for line in said.stdout.splitlines() if line.startswith("FRAMES ")]
    assert lines, said.stdout + said.stderr
    rows: list[dict[str, Any]] = json.loads(lines[0].removeprefix("FRAMES "))
    return rows


def _agree(
    ours: list[tuple[int, str, dict[str, Variable]]], judged: list[dict[str, Any]]
) -> tuple[int, int]:
    """(numbers that are gdb's, variables that both say are gone)."""
    same = gone = 0
    assert ours
    for (pc, name, variables), row in zip(ours, judged, strict=False):
        assert pc == row["pc"], (name, row)
        for variable, (argument, value) in row["variables"].items():
            mine = variables.get(variable)
            if mine is None and value == "gone":
                continue  # of a block that has no code here: gdb lists it all the same
            assert mine is not None, (name, variable)
            assert mine.argument == argument
            if mine.value is None and "not kept over the call" in mine.why:
                continue  # gdb takes a register that no call keeps for the caller's
            if value == "gone":
                # What has no size is all there, though no location says so.
                assert mine.value is None or not mine.value.type.size, (name, variable)
                gone += 1
            elif value is not None:
                assert mine.value is not None, (name, variable, mine.why, value)
                same += _same(mine.value, value, f"{name} {variable}")
    return same, gone


def _same(mine: Value, value: Any, what: str) -> int:
    if isinstance(value, dict):
        names = {member.name for member in mine.type.members}
        return sum(
            _same(mine.part(m), value[m.name], f"{what}.{m.name}")
            for m in mine.type.members
            if m.name in names & value.keys()
        )
    if not isinstance(value, int):
        return 0
    try:
        size = mine.type.size
        assert mine.number(0, size) == value, (what, hex(value))
    except (ReadError, InputError) as error:
        raise AssertionError(what) from error
    return 1
