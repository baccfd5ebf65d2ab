"""What is left behind, and what is said when the guest or its stub goes away under us."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.user_breakpoints import breakpoint_of
from breenix_gdbagent.errors import LinkTimeout, QemuDied
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.gdbstub import GdbStub
from breenix_gdbagent.live import attach
from tests.guest.debugged import BASE, debugged, go, image, set_break
from tests.guest.live_support import beside, needs_qemu, stood_at_its_exit

pytestmark = needs_qemu

QUIET = 0.5  # seconds in which a left breakpoint of a busy guest would have been hit


def test_no_breakpoint_stays_in_a_guest_that_we_leave(tmp_path: Path) -> None:
    """Points, gates of exceptions, a watchpoint; left running, with its reboot action as it was."""
    with beside(tmp_path, "marker-missing") as there:
        with attach(there.gdb, there.qmp, there.ram, there.serial) as vm:
            debugger = Debugger(vm, image())
            debugger.start()
            point = None
            for text in ("syscall_entry", "timer_interrupt_entry count 100", "exception 14"):
                number = debugger.table.number()
                point = debugger.add(breakpoint_of(text, image().loaded(BASE), number))
            for _ in range(3):
                assert debugger.go((), 20).reason.kind == "breakpoint"
            vm.insert(debugger.vm.registers["rsp"], "write", 8)
            vm.step()
            assert point is not None and len(vm.ledger.inserted) > 4
        assert vm.left == ""
        with GdbStub.connect(there.gdb) as stub:
            stub.cont()
            assert stub.wait(Deadline(QUIET)) is None  # it runs, and nothing of ours stops it


def test_a_reset_of_an_attached_guest_keeps_its_reboot_action(tmp_path: Path) -> None:
    """Its QEMU was told to pause at a reboot: a reset of ours comes up, its own still pauses it."""
    with (
        beside(tmp_path, "reboot") as there,
        attach(there.gdb, there.qmp, there.ram, there.serial) as vm,
    ):
        debugger = Debugger(vm, image())
        debugger.start()
        assert go(debugger).reason.kind == "shutdown"
        debugger.reset()
        assert go(debugger).reason.kind == "shutdown"
        assert debugger.loaded is not None  # it got as far as the kernel


@pytest.mark.parametrize("running", [False, True])
def test_a_guest_that_is_killed_is_told_as_that(running: bool) -> None:
    with debugged("marker-missing") as debugger:
        point = set_break(debugger, "syscall_entry")
        go(debugger)
        process = debugger.vm._holds.process
        assert process is not None
        if running:
            debugger.remove(point)
            debugger.vm.cont()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(QemuDied):
            debugger.vm.wait(20) if running else debugger.go((), 20)
        assert debugger.vm.exited
        with pytest.raises(QemuDied):
            set_break(debugger, "timer_interrupt_entry")


def test_a_guest_that_exits_is_a_stop_with_its_status() -> None:
    """Also with points whose place would have to be asked for."""
    with debugged("unexpected-exit") as debugger:
        set_break(debugger, "exception 13")
        set_break(debugger, "rust_begin_unwind")
        event = go(debugger)
        assert (event.reason.kind, event.reason.exit_status) == ("exit", 35)
        assert stood_at_its_exit(debugger.stop(event.reason).cpus)


def test_a_stub_that_stops_answering_is_not_waited_for(tmp_path: Path) -> None:
    """QEMU stands still (SIGSTOP): a request ends in time, with what was asked."""
    with debugged("marker-missing") as debugger:
        point = set_break(debugger, "syscall_entry")
        go(debugger)
        process = debugger.vm._holds.process
        assert process is not None
        debugger.vm.stub.seconds = QUIET
        os.kill(process.pid, signal.SIGSTOP)
        try:
            debugger.remove(point)  # told to the guest only when it is to move
            with pytest.raises(LinkTimeout, match="no answer to"):
                debugger.go((), 20)
        finally:
            os.kill(process.pid, signal.SIGCONT)
