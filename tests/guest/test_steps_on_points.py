"""Steps that come to points: what stops, what counts, what goes out, as gdb has it on the same
guest (break R; continue; stepi 60, with points of every kind on the way)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import breenix_gdbagent as ba
from breenix_gdbagent.debugger.stepping import Stepper
from breenix_gdbagent.live.elfcode import KernelCode
from tests.gdb import gdb_command
from tests.guest.debugged import BASE, SYSCALL, debugged, go, set_break, va
from tests.guest.labrun import agent
from tests.guest.live_support import DONE, ELF, beside, needs_qemu
from tests.guest.test_steps_against_gdb import COUNTED

pytestmark = [
    needs_qemu,
    pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb to compare with"),
]

STEPS = 60
ROUNDS = 4


@dataclass(frozen=True)
class Way:
    """RIP after each round of `stepi 60`, and the hits of each point that is still there."""

    stops: tuple[int, ...]
    hits: dict[str, int]


@cache
def passed() -> tuple[int, ...]:
    """Where single steps from R lead: addresses for points."""
    with debugged(deterministic=True, catching="none") as debugger:
        point = set_break(debugger, SYSCALL)
        go(debugger)
        debugger.remove(point)
        stepper = Stepper(debugger)
        found = []
        for _ in range(STEPS):
            stepper.instruction()
            found.append(debugger.vm.registers["rip"])
        return tuple(found)


def places() -> dict[str, int]:
    """Points by what they are, each at an instruction of its own on the way."""
    way = list(dict.fromkeys(passed()))
    return {
        "false": way[4], "checkpoint": way[9], "once": way[14], "passed": way[20], "plain": way[26],
    }  # fmt: skip


@cache
def theirs(room: Path) -> Way:
    at = places()
    lines = [
        "set pagination off",
        f"target remote {room}/gdb",
        f"hbreak *{va(SYSCALL):#x}",
        "continue",
        f"hbreak *{at['false']:#x} if $rip == 0",
        f'dprintf *{at["checkpoint"]:#x},"seen\\n"',
        f"thbreak *{at['once']:#x}",
        f"hbreak *{at['passed']:#x}",
        "ignore 5 1",
        f"hbreak *{at['plain']:#x}",
        *(word for _ in range(ROUNDS) for word in (f"stepi {STEPS}", r'printf "PC %lx\n", $pc')),
        "info breakpoints",
        "kill",
    ]
    (room / "commands").write_text("\n".join(lines) + "\n")
    with beside(room, "clean", *COUNTED, paused=True):
        done = subprocess.run(
            gdb_command("-batch", "-x", str(room / "commands")),
            capture_output=True, text=True, timeout=120, check=False, cwd=room,
        )  # fmt: skip
    stops = tuple(int(line[3:], 16) for line in done.stdout.splitlines() if line[:3] == "PC ")
    return Way(stops, dict(_hits(done.stdout[done.stdout.rindex("Num ") :])))


def _hits(table: str) -> Iterator[tuple[str, int]]:
    """(name, hits) of gdb's list of breakpoints."""
    names = {1: "R", 2: "false", 3: "checkpoint", 4: "once", 5: "passed", 6: "plain"}
    for row in re.split(r"\n(?=\d)", table)[1:]:
        count = re.search(r"already hit (\d+) time", row)
        yield names[int(row.split()[0])], int(count[1]) if count is not None else 0


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Way:
    way = theirs(tmp_path_factory.mktemp("gdb"))
    assert len(way.stops) == ROUNDS, "gdb did not go all the way"
    assert way.stops[0] == places()["once"] and "once" not in way.hits
    assert way.hits["checkpoint"] > 0 and way.hits["false"] == 0
    return way


def test_in_the_shell(judge: Way) -> None:
    at = places()
    said = agent(
        "shell", "--lab", "clean", "--deterministic",
        "-c", f"break {SYSCALL}", "-c", "continue",
        "-c", f"break {at['false']:#x} if rip == 0",
        "-c", f"checkpoint {at['checkpoint']:#x} rip",
        "-c", f"tbreak {at['once']:#x}",
        "-c", f"break {at['passed']:#x}", "-c", "ignore 5 1",
        "-c", f"break {at['plain']:#x}",
        *(w for _ in range(ROUNDS) for w in ("-c", f"stepi {STEPS}", "-c", "print rip")),
        "-c", "break",
    )  # fmt: skip
    assert said.code == 0, said.err
    stops = tuple(int(line.split()[0], 16) for line in said.out.splitlines() if _is_rip(line))
    assert stops == judge.stops
    assert "of gdb's" not in said.out
    names = {1: "R", 2: "false", 3: "checkpoint", 4: "once", 5: "passed", 6: "plain"}
    table = said.out.splitlines()[-len(judge.hits) :]
    hits = {
        names[int(row.split()[0])]: int(found[1]) if (found := re.search(r"(\d+) hit", row)) else 0
        for row in table
    }
    assert hits == judge.hits


def _is_rip(line: str) -> bool:
    """An answer of `print rip`: a bare number, with its symbol or without."""
    return re.fullmatch(r"0x[0-9a-f]+( <.*>)?", line) is not None


def test_in_python(judge: Way) -> None:
    at = places()
    with ba.launch(lab="clean", deterministic=True) as vm:
        points = {"R": vm.breakpoint(SYSCALL)}
        vm.run()
        points["false"] = vm.breakpoint(at["false"], condition="rip == 0")
        points["checkpoint"] = vm.checkpoint(at["checkpoint"], "rip")
        points["once"] = vm.breakpoint(at["once"], once=True)
        points["passed"] = vm.breakpoint(at["passed"], count=2)
        points["plain"] = vm.breakpoint(at["plain"])
        stops = []
        for _ in range(ROUNDS):
            stops.append(vm.stepi(STEPS).cpu.rip)
            assert vm.event is not None
            assert (vm.event.reason.kind == "breakpoint") == bool(vm.event.points)
        assert tuple(stops) == judge.stops
        assert points["once"] not in vm.points and points["once"].hits == 1
        assert {name: p.hits for name, p in points.items() if p in vm.points} == judge.hits
        assert len(points["checkpoint"].records) == judge.hits["checkpoint"]


def test_a_watchpoint_that_a_step_triggers_is_hit() -> None:
    """The guest pushes on its stack on the way: watched, the step stops behind that push."""
    with ba.launch(lab="clean", deterministic=True) as vm:
        stop = vm.run_until("syscall_entry")
        point = vm.watch(stop.cpu.registers["rsp"] - 8, 8, access="access")
        before = stop.cpu.rip
        stop = vm.stepi(STEPS)
        assert stop.cpu.rip - before == 2  # push 0
        assert vm.event is not None and vm.event.points == (point,)
        assert point.hits == 1 and vm.event.notes


def test_steps_over_the_own_lidt_are_one_instruction_each() -> None:
    """The kernel's own ``lidt`` has a breakpoint of ours until it has run: a step that comes to it
    stops before it, the next one runs it, and then faults are caught."""
    site = next(BASE + at for at in KernelCode.read(ELF).lidt_sites())
    with debugged() as debugger:
        point = set_break(debugger, f"{site - 8:#x}")
        assert go(debugger).points == (point,)
        assert debugger.vm.registers["rip"] == site - 8
        stepper = Stepper(debugger)
        stepper.instruction()
        stepper.instruction()
        assert debugger.vm.registers["rip"] == site and debugger.vm.arming.armed_at is None
        event = stepper.instruction()
        assert (event.reason.kind, debugger.vm.registers["rip"]) == ("step", site + 3)
        assert "the kernel loaded its IDT" in str(debugger.vm.arming.armed_at)
        assert go(debugger, DONE).reason.kind == "marker"


def test_a_run_from_the_own_lidt_arms() -> None:
    """Stopped by a step right before it, the guest runs on: nothing is hit there twice."""
    site = next(BASE + at for at in KernelCode.read(ELF).lidt_sites())
    with debugged() as debugger:
        set_break(debugger, f"{site - 3:#x}")
        go(debugger)
        Stepper(debugger).instruction()
        assert debugger.vm.registers["rip"] == site
        assert go(debugger, DONE).reason.kind == "marker"
        assert "the kernel loaded its IDT" in str(debugger.vm.arming.armed_at)
