"""Checkpoints, invariants and scripts of `ci`, on the lab guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.labrun import agent

PLACE = "syscall_entry"
THREAD = "kernel::task::scheduler::SCHEDULER.current_thread"


def test_a_checkpoint_prints_and_goes_on() -> None:
    result = agent("ci", "--lab", "clean", "--json", "--checkpoint", f"{PLACE} rip, {THREAD}")
    assert result.code == 0
    lines = [line for line in result.err.splitlines() if f"{PLACE}: rip = " in line]
    assert len(lines) > 3
    assert f"checkpoint at {PLACE}: {len(lines)} hits" in result.err
    assert all("<" not in line.split(THREAD)[1] for line in lines)  # the value could be read
    threads = {line.rpartition(" = ")[2] for line in lines}
    assert len(threads) > 1  # the scheduler really switched in between


def test_a_condition_holds_it_back() -> None:
    held = agent("ci", "--lab", "clean", "--checkpoint", f"{PLACE} {THREAD} if {THREAD} == 2")
    lines = [line for line in held.err.splitlines() if f"{PLACE}: {THREAD} = " in line]
    assert lines
    assert {line.rpartition(" = ")[2] for line in lines} == {"Some(2)"}


def test_an_invariant_stops_at_its_first_violation() -> None:
    broken = agent(
        "ci", "--lab", "kernel-slot-diverged", "--invariant", f"kernel-slots at {PLACE}", "--json"
    )
    assert broken.code == 1
    assert broken.document["stops"][-1]["reason"] == "breakpoint"
    assert "kernel-slot.diverged" in broken.codes("error")
    sound = agent("ci", "--lab", "clean", "--invariant", f"stacks-mapped at {PLACE}", "--json")
    assert sound.code == 0
    assert sound.document["stops"][-1]["reason"] == "marker"


def test_a_script_waits_for_its_lines(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("# to the end\nexpect Process management initialized\nexpect LAB COMPLETE\n")
    assert agent("ci", "--lab", "clean", "--script", str(script)).code == 0
    script.write_text("expect this is never printed\n")
    late = agent("ci", "--lab", "clean", "--script", str(script), "--timeout", "3", "--json")
    assert late.code == 4
    assert late.codes("error") == {"marker-missing"}


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--checkpoint", "nobody_knows_this"),
        ("--checkpoint", f"{PLACE} if rip =="),
        ("--invariant", "nothing at all"),
        ("--invariant", "kernel-stacks"),
        ("--script", "/nonexistent"),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_runs(option: str, text: str) -> None:
    result = agent("ci", "--lab", "clean", option, text)
    assert result.out == ""
    assert len(result.err.strip().splitlines()) <= 3
    assert result.code == 2
