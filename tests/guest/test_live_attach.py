"""Attaching to a QEMU that runs already, and leaving it as it was."""

from __future__ import annotations

import argparse
import socket
import time
from pathlib import Path

import pytest

from breenix_gdbagent.commands.examined import stop_of
from breenix_gdbagent.commands.target import add_target_options, target_of
from breenix_gdbagent.errors import ConnectError, InputError
from breenix_gdbagent.link.qmp import Qmp
from breenix_gdbagent.live import LiveVm, attach
from breenix_gdbagent.memory.ramfile import RamFile
from tests.guest.debugged import BASE, SYSCALL, va
from tests.guest.live_support import DONE, ELF, Beside, beside, free_port, needs_qemu

pytestmark = needs_qemu


def status(qemu: Beside) -> str:
    """QEMU's own word, by a connection that the agent has left."""
    qmp = Qmp(str(qemu.room / "qmp"))
    try:
        return qmp.status()
    finally:
        qmp.close()


def test_a_running_guest_runs_on_afterwards(tmp_path: Path) -> None:
    with beside(tmp_path, "hang") as qemu:
        with attach(qemu.gdb, qmp=qemu.qmp) as vm:
            assert not vm.running
            vm.arm()
            vm.insert(vm.stop().cpu.rip)
            vm.step()
            assert vm.ledger.inserted
            stop = vm.stop()
            assert stop.cpus[0].idtr is not None
        assert vm.left == ""
        assert status(qemu) == "running"
        with attach(qemu.gdb, qmp=qemu.qmp) as again:
            assert again.stub.ask(b"qqemu.PhyMemMode") == [b"0"]
            # No breakpoint was left: it runs until it is stopped.
            assert again.run_until([], 0.3).reason.kind == "deadline"


def test_a_paused_guest_stays_paused(tmp_path: Path) -> None:
    with beside(tmp_path, paused=True) as qemu:
        with attach(qemu.gdb, qmp=qemu.qmp) as vm:
            assert vm.stop().reason.kind == "attached"
        assert status(qemu) in ("paused", "prelaunch")
        with attach(qemu.gdb, qmp=qemu.qmp) as vm:
            vm.run_until([], 0.1)
        assert status(qemu) == "paused"


def test_without_qmp_what_is_not_known_is_said(tmp_path: Path) -> None:
    """QEMU before 8 tells of the stop that connecting made; newer ones do not."""
    with beside(tmp_path, "hang") as qemu:
        with attach(qemu.gdb) as vm:
            told = vm.stub.last_stop is not None
            stop = vm.stop()
            assert stop.cpu.idtr is not None and stop.memory.ram is not None
            assert len(stop.memory.read(stop.memory.ram.ranges[0].start, 64)) == 64
        assert ("left stopped" in vm.left) is not told
        assert status(qemu) == ("running" if told else "paused")


def test_the_ram_file_and_the_process_hold_the_same(tmp_path: Path) -> None:
    with beside(tmp_path, paused=True) as qemu:
        with attach(qemu.gdb, qmp=qemu.qmp, ram=qemu.ram, serial=qemu.serial) as vm:
            stop = vm.run_until(["Memory management initialized"], 20)
            assert isinstance(vm.memory(), RamFile)
            root = stop.cpu.root
            assert root is not None
            wanted = bytes(stop.memory.table(root))
            assert any(wanted)
        with attach(qemu.gdb, qmp=qemu.qmp) as vm:
            assert not isinstance(vm.memory(), RamFile)
            assert bytes(vm.stop().memory.table(root)) == wanted
        with attach(qemu.gdb) as vm:
            assert bytes(vm.stop().memory.table(root)) == wanted


def first_syscall(vm: LiveVm) -> None:
    """There, and not at a line that the guest printed a moment ago: it may be past its fault."""
    point = vm.insert(va(SYSCALL))
    assert vm.run([], 20).kind == "breakpoint"
    vm.stop()
    vm.remove(point)


def test_an_attached_guest_with_its_idt_loaded_is_armed_at_once(tmp_path: Path) -> None:
    with (
        beside(tmp_path, "page-fault-user", paused=True) as qemu,
        attach(qemu.gdb, qmp=qemu.qmp, serial=qemu.serial) as vm,
    ):
        first_syscall(vm)
        vm.arm()
        assert (vm.arming.armed_at or "").startswith("the guest stood still with")
        stop = vm.run_until([DONE], 20)
        assert (stop.reason.kind, stop.reason.vector) == ("fault", 14)


@pytest.mark.parametrize("monitor", [True, False])
def test_one_that_stands_at_reset_is_caught_from_its_first_instruction(
    monitor: bool, tmp_path: Path
) -> None:
    """As a launched one: by the kernel's own lidt, whatever loads the kernel."""
    with (
        beside(tmp_path, "page-fault-user", paused=True) as qemu,
        attach(qemu.gdb, qmp=qemu.qmp if monitor else None) as vm,
    ):
        assert vm.stop().cpu.at_reset
        vm.arm(ELF)
        stop = vm.run_until([], 20)
        assert (stop.reason.kind, stop.reason.vector) == ("fault", 14)
        assert (vm.arming.armed_at or "").startswith("the kernel loaded its IDT")
        assert not stop.cpu.at_reset and vm.arming.bias == BASE


def test_a_guest_without_an_idt_is_armed_by_the_first_stop_that_shows_one(tmp_path: Path) -> None:
    with (
        beside(tmp_path, "page-fault-user", paused=True) as qemu,
        attach(qemu.gdb, serial=qemu.serial) as vm,
    ):
        vm.arm()
        assert vm.arming.armed_at is None
        assert any("no IDT of its own yet" in note for note in vm.arming.notes)
        first_syscall(vm)
        assert (vm.arming.armed_at or "").startswith("a stop found its IDT at")
        stop = vm.run_until([DONE], 20)
        assert (stop.reason.kind, stop.reason.vector) == ("fault", 14)


@pytest.mark.parametrize("net", ["unix", "tcp"])
def test_a_second_client_is_told_that_there_is_a_first(net: str, tmp_path: Path) -> None:
    """Whoever it is: here a socket that says nothing, which is what a gdb does most of the time."""
    port = free_port()
    stub = f"127.0.0.1:{port}" if net == "tcp" else f"unix:{tmp_path}/gdb"
    with beside(tmp_path, "hang", gdb=f"tcp::{port}" if net == "tcp" else None) as qemu:
        first = socket.create_connection(("127.0.0.1", port)) if net == "tcp" else None
        if first is None:
            first = socket.socket(socket.AF_UNIX)
            first.connect(f"{tmp_path}/gdb")
        with first, pytest.raises(ConnectError, match="one client at a time"):
            attach(stub)
        with attach(stub, qmp=qemu.qmp) as vm:  # free again
            assert vm.stop().cpus


def test_a_second_client_on_the_monitor(tmp_path: Path) -> None:
    with (
        beside(tmp_path) as qemu,
        attach(qemu.gdb, qmp=qemu.qmp),
        pytest.raises(ConnectError, match="QMP socket is silent"),
    ):
        Qmp(str(qemu.room / "qmp"), seconds=0.3)


def test_a_guest_that_shut_down_is_read_and_not_continued(tmp_path: Path) -> None:
    with beside(tmp_path, "ist-unmapped") as qemu:
        qmp = Qmp(str(qemu.room / "qmp"))
        limit = time.monotonic() + 20
        while qmp.status() != "shutdown" and time.monotonic() < limit:
            pass
        qmp.close()
        with attach(qemu.gdb, qmp=qemu.qmp, ram=qemu.ram) as vm:
            stop = vm.stop()
            assert stop.cpu.root is not None and len(stop.memory.table(stop.cpu.root)) == 512
        assert status(qemu) == "shutdown"


def test_qemu_that_goes_away_while_we_wait(tmp_path: Path) -> None:
    with beside(tmp_path, "hang") as qemu, attach(qemu.gdb) as vm:
        vm.cont()
        qemu.process.kill()
        stop = vm.stop(vm.wait(20))
        assert stop.reason.kind == "exit" and stop.cpus == ()
        qemu.process.wait(10)


def test_what_is_no_gdbstub(tmp_path: Path) -> None:
    with beside(tmp_path) as qemu, pytest.raises(ConnectError, match="is no gdbstub"):
        attach(qemu.qmp)


def test_what_is_no_monitor(tmp_path: Path) -> None:
    with beside(tmp_path) as qemu, pytest.raises(ConnectError):
        attach(qemu.gdb, qmp=qemu.gdb)


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("way", ["qmp", "stub"])
def test_a_guest_that_somebody_else_let_run_is_told_as_racy(
    way: str, others: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by a QEMU from 8 on, whose stub says nothing of it: by the guest's own clock."""
    with beside(tmp_path, "hang") as qemu:
        past_the_firmware(qemu)
        target = ["--gdb", qemu.gdb, *(("--qmp", qemu.qmp) if way == "qmp" else ())]
        with stop_of(target_of(_options(target), default_lab=False)) as stop:
            assert qemu.status() == "paused"
            if others:
                qemu.execute("cont")
                qemu.execute("stop")
            assert stop.cpu.root is not None
    out, err = capsys.readouterr()
    assert out == ""
    assert ("racy: somebody else let the guest run" in err) == others
    assert (err == "") != others


def test_what_cannot_be_told_of_others_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A guest at reset has no clock yet: a silent stub leaves it open, and no answer is made up."""
    with beside(tmp_path, paused=True) as qemu:
        with attach(qemu.gdb) as vm:
            silent = vm.stub.last_stop is None
        target = target_of(_options(["--gdb", qemu.gdb]), default_lab=False)
        with stop_of(target):
            pass
    assert ("is not known" in capsys.readouterr().err) == silent


def past_the_firmware(qemu: Beside) -> None:
    """Until the kernel's own greeting."""
    with attach(qemu.gdb, qmp=qemu.qmp, serial=qemu.serial) as vm:
        assert vm.run_until(["Memory management initialized"], 30).reason.kind == "marker"


def _options(target: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_target_options(parser)
    return parser.parse_args(target)


def test_our_own_stops_and_starts_are_nobody_elses(tmp_path: Path) -> None:
    """QEMU tells an event of each, which wait unread for as long as the guest is let run."""
    with beside(tmp_path, "marker-missing") as qemu, attach(qemu.gdb, qemu.qmp, qemu.ram) as vm:
        for _ in range(600):
            vm.step()
        vm.stop()
        assert not vm.disturbed()
        qemu.execute("cont")
        qemu.execute("stop")
        assert vm.disturbed()


def test_the_ram_file_of_another_guest_is_refused(tmp_path: Path) -> None:
    """Also one that QEMU has for itself alone (share=off): it never gets what the guest writes."""
    rooms = [tmp_path / "one", tmp_path / "other"]
    for room in rooms:
        room.mkdir()
    with beside(rooms[0], "hang") as one, beside(rooms[1], "clean") as other:
        for qemu, text in ((one, "Memory management initialized"), (other, DONE)):
            with attach(qemu.gdb, qmp=qemu.qmp, serial=qemu.serial) as vm:
                vm.run_until([text], 20)
        private = tmp_path / "private"
        private.write_bytes(bytes(one.ram.stat().st_size))
        for wrong in (other.ram, private):
            with (
                attach(one.gdb, qmp=one.qmp, ram=wrong) as vm,
                pytest.raises(InputError, match="is not the RAM of this guest"),
            ):
                vm.stop()
        with attach(one.gdb, ram=one.ram) as vm:
            assert isinstance(vm.memory(), RamFile)
