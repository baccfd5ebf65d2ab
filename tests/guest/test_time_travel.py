"""The shell and Python on a recording: both ways, and never another run."""

from __future__ import annotations

import doctest
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import breenix_gdbagent as ba
from breenix_gdbagent.api import replay as module
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu

pytestmark = needs_qemu

SYSCALL = "syscall_entry"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("travel") / "run"
    made = agent("record", "--lab", "kernel-stack-unmapped", "-o", str(place))
    assert made.code == 1, made.err
    return place


@pytest.fixture
def vm(recording: Path) -> Iterator[ba.ReplayedVm]:
    with ba.replay(recording) as guest:
        yield guest


def test_the_example_runs(recording: Path) -> None:
    failed, tried = doctest.testmod(module, extraglobs={"recording": recording})
    assert tried >= 2 and failed == 0


def test_backwards_comes_to_the_stops_of_forwards(vm: ba.ReplayedVm) -> None:
    end = vm.icount
    vm.breakpoint(SYSCALL)
    vm.goto(end - 200_000)
    forwards = []
    while vm.run().reason.kind == "breakpoint":
        forwards.append(vm.icount)
    assert len(forwards) > 2 and vm.icount == end
    assert vm.stop.reason.kind == "fault" and vm.stop.reason.vector == 8
    backwards = [vm.icount for _ in forwards if vm.reverse_run().reason.kind == "breakpoint"]
    assert backwards == forwards[::-1]
    assert vm.points[0].hits == len(forwards)


def test_one_instruction_back_and_forth(vm: ba.ReplayedVm) -> None:
    vm.goto(vm.icount - 50_000)
    here, registers = vm.icount, vm.stop.cpu.registers
    vm.reverse_stepi(7)
    assert vm.icount == here - 7
    vm.stepi(7)
    assert vm.icount == here and vm.stop.cpu.registers == registers


def test_lines_and_calls_backwards(vm: ba.ReplayedVm) -> None:
    origin = vm.when("kernel-stack.unmapped")
    assert origin.place is not None
    vm.goto(origin.place.icount)
    at = vm.icount
    inside = vm.kernel.symbol(vm.stop.cpu.rip)
    vm.reverse_next()
    assert vm.icount < at
    over = vm.icount
    vm.goto(at)
    vm.reverse_step()
    assert over <= vm.icount < at
    vm.goto(at)
    vm.reverse_finish()
    caller = vm.kernel.symbol(vm.stop.cpu.rip)
    assert inside and "remove_own_stack" in inside
    assert caller and "unmapped_double_fault" in caller


def test_the_beginning_and_the_end_are_walls(vm: ba.ReplayedVm) -> None:
    end = vm.icount
    assert vm.run().reason.kind == "fault" and vm.icount == end
    vm.goto(1000)
    assert vm.reverse_run().reason.text == "the recording begins here"
    with pytest.raises(ba.AgentError, match="has no instruction"):
        vm.goto(end + 1)


def test_the_shell_goes_both_ways(recording: Path) -> None:
    told = agent(
        "shell", "--replay", str(recording),
        "-c", "bookmark fault", "-c", "when kernel-slot.diverged", "-c", "goto fault",
        "-c", "break syscall_entry", "-c", "reverse-continue", "-c", "last SCHEDULER",
        "-c", "goto Kernel initialization complete!", "-c", "reverse-stepi 3",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "first held after instruction" in told.out
    assert re.search(r"breakpoint at syscall_entry", told.out)
    assert re.search(r"store by 0x\w+", told.out)


def test_a_guest_that_runs_does_not_go_back() -> None:
    told = agent("shell", "--lab", "-c", "reverse-continue")
    assert told.code == 2 and "only a recording goes back in time" in told.err


def test_lines_after_the_fact(recording: Path) -> None:
    """Each hit once, in order, and the run is the recorded one: its count at a syscall is the one
    at which the guest stands when it is gone to."""
    told = agent("trace", str(recording), "syscall_entry rax, pid if rax != 39", "--json")
    assert told.code == 0, told.err
    rows = json.loads(told.out)
    counts = [row["icount"] for row in rows]
    assert len(rows) > 5 and counts == sorted(set(counts))
    assert all(re.fullmatch(r"syscall_entry: rax = 0x\w+, pid = \d", r["text"]) for r in rows)
    with ba.replay(recording) as vm:
        stop = vm.goto(rows[-1]["icount"])
        assert vm.kernel.symbol(stop.cpu.rip) == SYSCALL
        assert f"rax = {stop.cpu.registers['rax']:#x}" in rows[-1]["text"]


def test_where_the_instructions_went(recording: Path) -> None:
    told = agent("profile", str(recording), "--samples", "60", "--json")
    rows = json.loads(told.out)
    assert sum(row["samples"] for row in rows) == 60
    assert "memset" in [row["function"] for row in rows]
    assert told.out == agent("profile", str(recording), "--samples", "60", "--json").out


def test_the_writes_of_a_variable_backwards(recording: Path) -> None:
    told = agent("last", str(recording), "SCHEDULER", "--count", "3", "--json")
    rows = json.loads(told.out)
    counts = [row["icount"] for row in rows]
    assert len(rows) == 3 and counts == sorted(counts, reverse=True)
    assert all(row["kind"] == "store" for row in rows)
