"""Several CPUs: each is shown and can be chosen, points say which one, every per-CPU block is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import breenix_gdbagent as ba
from tests.guest.labrun import agent
from tests.guest.linuxguest import Linux, linux, needs_linux
from tests.guest.live_support import needs_qemu
from tests.guest.shellterm import Terminal

pytestmark = needs_qemu


def test_a_parked_cpu() -> None:
    """It is shown and can be chosen; nothing is held against it, and a point of its never hits."""
    result = agent(
        "shell", "--lab", "parked", "--smp", "2",
        "-c", "break syscall_entry cpu 1", "-c", "tbreak syscall_entry", "-c", "continue",
        "-c", "cpu", "-c", "percpu", "-c", "cpu 1", "-c", "print cpu", "-c", "walk syscall_entry",
        "-c", "cpu 0", "-c", "print cpu", "-c", "break", "-c", "cpu 7",
    )  # fmt: skip
    assert re.search(r"^── 2: breakpoint at syscall_entry, CPU 0 ", result.out, re.MULTILINE)
    assert re.search(r"^\* CPU 0 ring 0 at 0x\w+ <syscall_entry>, thread", result.out, re.MULTILINE)
    assert re.search(r"^  CPU 1 .*halted at 0x", result.out, re.MULTILINE)
    assert "CPU 1: GS leads to no per-CPU block" in result.out
    assert re.search(r"^── .*CPU 1 of the same stop", result.out, re.MULTILINE)
    assert re.findall(r"^([01])$", result.out, re.MULTILINE) == ["1", "0"]
    assert "PML4 [  1]" in result.out  # a CPU without paging is asked about: the master's tables
    assert "hits" not in result.out.split("1  breakpoint at syscall_entry cpu 1")[1]
    assert "ERROR" not in result.out
    assert "there is no CPU 7" in result.err


def test_a_parked_cpu_is_no_finding() -> None:
    result = agent("ci", "--lab", "parked", "--smp", "3", "--json")
    assert result.code == 0
    assert result.codes("error", "warning") == set()
    assert [cpu["id"] for cpu in result.document["stops"][0]["cpus"]] == [0, 1, 2]


def test_a_machine_of_several_cpus_is_launched_snapshot_and_booted_again(tmp_path: Path) -> None:
    """What booted is in the snapshot: the same number boots again, and no other can be asked."""
    file = str(tmp_path / "two.snapshot")
    taken = agent("snapshot", "--lab", "divide-error", "--smp", "2", "-o", file)
    assert taken.code == 1
    stacks = agent("bt", "--snapshot", file)
    assert "CPU 1\n#0 " in stacks.out
    again = agent("snapshot", "--reproduce", file, "--smp", "4")
    assert again.code == 2 and "--smp does not go with --reproduce" in again.err
    assert agent("snapshot", "--reproduce", file).code == 0


def test_launched_from_python() -> None:
    with ba.launch(lab="clean", smp=2) as vm:
        assert [cpu.index for cpu in vm.stop.cpus] == [0, 1]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Linux]:
    with linux(tmp_path_factory.mktemp("smp"), "qemu64") as guest:
        yield guest


@needs_linux
def test_two_cpus_that_run(debian: Linux, tmp_path: Path) -> None:
    """Both CPUs' registers are those of QEMU's monitor, a breakpoint says who ran into it, and one
    that is for one CPU counts only there."""
    monitor = debian.monitor
    with Terminal(tmp_path, *debian.target, lines=80) as shell:
        shell.run(f"tbreak {debian.spin:#x}")
        shown = shell.run("continue", r"^── \d: breakpoint")
        hit = re.search(r"^── 1: breakpoint at 0x\w+, CPU ([01]) ", shown, re.MULTILINE)
        assert hit is not None, shown
        assert monitor.register("RIP", int(hit[1])) == debian.spin
        assert shell.line.startswith(f"(CPU {hit[1]}: ")
        shell.run("cpu", r"^. CPU 1 ")
        for cpu in debian.cpus:
            view = shell.run(f"cpu {cpu}", rf"^CPU {cpu} ring")
            for name in ("RIP", "RSP", "CR3"):
                found = re.search(rf"[ *]{name.lower()} +(0x[0-9a-f]+)", view)
                assert found is not None, view
                assert int(found[1], 16) == monitor.register(name, cpu), (name, cpu)
        shell.run(f"break {debian.spin:#x} cpu {1 - int(hit[1])}")
        shell.run(f"tbreak {debian.spin:#x}")
        shown = shell.run("continue", r"^── \d: breakpoint")
        again = re.search(r"^── (.*), CPU ([01]) ", shown, re.MULTILINE)
        assert again is not None, shown
        assert monitor.register("RIP", int(again[2])) == debian.spin
        # The program may have moved: the point of the other CPU counts only there.
        assert (f"cpu {1 - int(hit[1])}" in again[1]) == (again[2] != hit[1])
        shell.enter("quit")
        assert shell.ended() == 0
    assert monitor.stays_running(0.3)
