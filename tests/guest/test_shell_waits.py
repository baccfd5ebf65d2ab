"""What is typed at a moment at which it cannot be done: it waits, or leaves the stop as it was."""

from __future__ import annotations

import re
from pathlib import Path

import breenix_gdbagent as ba
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu
from tests.guest.shellterm import Terminal

pytestmark = needs_qemu


def test_points_that_are_set_while_the_guest_runs_wait_and_say_so(tmp_path: Path) -> None:
    with Terminal(tmp_path, "--lab", "marker-missing") as shell:
        shell.until(r"^\(not started\)$")
        shell.enter("wait ENOSYS OK")
        shell.until(r"^── serial text")
        shell.enter("continue")
        shell.until(r"^\(running\)$")
        for line in ("checkpoint --quiet timer_interrupt_entry", "watch SCHEDULER.current_thread",
                     "break syscall_entry", "delete 3"):  # fmt: skip
            shell.enter(line)
            shell.until(rf"^the guest is running: `{re.escape(line)}` waits until it stops")
        shell.keys("\x03")
        shell.until(r"^`checkpoint .*`, which waited: 1: checkpoint at timer_interrupt_entry")
        shell.until(r"^`watch .*`, which waited: 2: watch SCHEDULER.current_thread, \d+ bytes at")
        shell.until(r"^`delete 3`, which waited: done")
        shell.enter("break")
        shown = shell.until(r"^ +2 +watch SCHEDULER.current_thread")
        assert re.search(r"^ +3 +breakpoint", shown, re.MULTILINE) is None


def test_a_static_can_be_watched_before_the_kernel_runs() -> None:
    said = agent(
        "shell", "--lab", "clean", "-c", "watch SCHEDULER.current_thread", "-c", "break",
        "-c", "wait COMPLETE 20", "-c", "watch NO_SUCH_STATIC",
    )  # fmt: skip
    waits = "watched as soon as the kernel runs and it has a place"
    assert said.out.count(waits) == 2
    assert re.search(r"SCHEDULER.current_thread was None, is Some\(\d+\)", said.out)
    assert said.code == 1 and "NO_SUCH_STATIC" in said.err
    with ba.launch(lab="clean") as vm:
        point = vm.watch("SCHEDULER.current_thread")
        assert point.watched == ()
        vm.run()
        assert vm.event is not None and vm.event.points == (point,) and point.watched


def test_a_refused_continue_leaves_the_stop_what_it_was(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    said = agent(
        "shell", "--lab", "ist-unmapped", "-c", "catch none", "-c", "continue",
        "-c", f"save {before}", "-c", "continue", "-c", "stepi", "-c", "walk rip",
        "-c", f"save {after}",
    )  # fmt: skip
    assert said.out.count("── shutdown") == 1
    assert said.err.count("cannot go on") == 2
    assert "has run since" not in said.out + said.err
    assert before.stat().st_size == after.stat().st_size > 1_000_000


def test_a_save_that_lacks_what_was_asked_for_says_so(tmp_path: Path) -> None:
    small, again = tmp_path / "small", tmp_path / "again"
    said = agent("shell", "--lab", "clean", "-c", "wait LAB COMPLETE", "-c", f"save {small} tables")
    assert said.code == 0
    said = agent("shell", "--snapshot", str(small), "-c", f"save {again} all")
    assert said.code == 3 and again.is_file()
    assert re.search(r"again is written, and lacks \d+ pages of RAM that was asked for", said.err)


def test_a_stop_that_is_over_is_not_saved(tmp_path: Path) -> None:
    with ba.launch(lab="clean") as vm:
        stop = vm.run_until("syscall_entry")
        vm.stepi()
        try:
            ba.save(stop, tmp_path / "late")
        except ba.AgentError as error:
            assert "has run since this stop" in str(error)
    assert list(tmp_path.iterdir()) == []
