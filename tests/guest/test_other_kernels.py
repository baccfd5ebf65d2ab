"""Kernels that are not Breenix's: the machines that boot them, and what is said of them."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.lab import elf
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu

pytestmark = needs_qemu


def test_a_kernel_that_qemu_loads_runs_on_a_machine_of_its_own(tmp_path: Path) -> None:
    kernel, machine = str(elf(False)), str(tmp_path / "own.toml")
    made = agent("init", "machine", "--kernel", kernel, "--success", "LAB COMPLETE", "-o", machine)
    assert made.code == 0, made.err
    saved = tmp_path / "end.snapshot"
    run = agent("ci", "--config", machine, "--kernel", kernel, "-o", str(saved), "--json")
    assert run.code == 0, run.err + run.out
    document = run.document
    assert document["run"]["outcome"] == "passed"
    assert document["target"] == {"kind": "kernel", "config": "own.toml", "kernel": "labguest.elf"}
    again = agent(
        "snapshot", "--reproduce", str(saved), "--config", machine, "--kernel", kernel
    )  # fmt: skip
    assert (again.code, again.out.splitlines()[:1]) == (0, ["the same fault again"]), again.err
