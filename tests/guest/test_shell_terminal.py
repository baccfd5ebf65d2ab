"""The prompt in a real terminal: state, completion, history, serial text, Ctrl-C, pager, end."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.guest.live_support import needs_qemu
from tests.guest.shellterm import SECONDS, TICK, Terminal

pytestmark = needs_qemu

FOREVER = ("--lab", "marker-missing")
SIZES = pytest.mark.parametrize("columns", [80, 200])


@SIZES
def test_the_prompt_says_where_the_guest_stands(tmp_path: Path, columns: int) -> None:
    with Terminal(tmp_path, *FOREVER, columns=columns) as shell:
        shell.until(r"^\(not started\)$")
        shell.run("tbreak syscall_entry process 2")
        shell.enter("continue")
        shell.until(r"^\(syscall_entry in clock_gettime_test \(pid 2\)\)$")
        shell.enter("continue")
        shell.until(r"^\(running\)$")
        shell.keys("\x03")
        shell.until(r"^── interrupt ")
        shell.until(r"^\(.* in \w+ \(pid \d\)\)$|^\(.* in master\)$")


@SIZES
def test_the_bar_below(tmp_path: Path, columns: int) -> None:
    """State, CPU, whose CR3 it is, running time, the last serial line; never wider than a row."""
    with Terminal(tmp_path, *FOREVER, columns=columns) as shell:
        shell.until(r"^not started: continue$")
        shell.run("tbreak syscall_entry process 2")
        shell.run("continue", r"── \d+: breakpoint")
        shell.until(
            r"^breakpoint \| CPU 0/1 ring 0 \| clock_gettime_test \(pid 2\) \| \d+\.\d{3} s \| \S+"
        )
        assert len(shell.bar) < columns
        shell.enter("continue")
        shell.until(r"^running \| \d+\.\d s \| ENOSYS OK$")


def test_serial_text_comes_above_the_prompt(tmp_path: Path) -> None:
    """While a line is being typed, the guest's text is printed above it and the line stays."""
    with Terminal(tmp_path, *FOREVER) as shell:
        shell.enter("wait Created process clock_gettime_test")
        shell.keys("print 40 + 2")
        shown = shell.until(r"^── serial text")
        assert re.search(r"^\[ INFO\] kernel: Kernel entry point reached$", shown, re.MULTILINE)
        assert "@{" not in shown  # the lab guest's words for its tests
        shell.until(r"^\(.*\) print 40 \+ 2$")
        shell.keys("\r")
        shell.until(r"^42$")


def test_ctrl_c_is_the_guests_while_it_runs(tmp_path: Path) -> None:
    """Again and again; and at a prompt it drops the line, in a history search the search."""
    with Terminal(tmp_path, *FOREVER) as shell:
        shell.run("wait initialization complete", r"^── serial text")
        for _ in range(3):
            shell.enter("continue")
            shell.until(r"^\(running\)$")
            shell.keys("\x03")
            shell.until(r"^── interrupt ")
            shell.ready()
        shell.keys("frobnicate\x03")
        shell.ready()
        assert "no command" not in shell.text
        shell.keys("\x12wait")
        shell.until(r"reverse-i-search.*wait initialization", everywhere=True)
        shell.keys("\x03")
        shell.ready()
        assert shell.run("print 6 * 7", r"^42$")


def test_what_tab_offers(tmp_path: Path) -> None:
    with Terminal(tmp_path, *FOREVER) as shell:
        shell.ready()
        for keys, offered in (
            ("tbr\t", r"\(not started\) tbreak$"),
            (" syscall_en\t", r"\) tbreak syscall_entry$"),
        ):
            shell.keys(keys)
            shell.until(offered)
        shell.keys("\r")
        shell.ready()
        shell.run("continue", r"── \d+: breakpoint")
        for keys, offered in (
            ("print SCHEDULER.cur\t", r"\) print SCHEDULER\.current_thread$"),
            ("break syscall_entry process clo\t", r"process clock_gettime_test$"),
            ("walk 0xffffc9000002\t", r"walk 0xffffc9000002\w+$|^ +0xffffc9000002\w{4}$"),
            ("map 0x121\t", r"\) map 0x121000$"),
            ("help regi\t", r"\) help registers$"),
            ("invariant kernel-st\t", r"\) invariant kernel-stacks$"),
            ("save ./.lo\t", r"\) save \./\.local/$"),
        ):
            shell.keys(keys)
            shell.until(offered)
            shell.keys("\x15\x0b")
            shell.until(r"^\(syscall_entry in [^)]*\)\)$")


def test_history_is_kept_for_the_user(tmp_path: Path) -> None:
    with Terminal(tmp_path, *FOREVER) as shell:
        shell.run("print 1234 + 1", r"^1235$")
        shell.enter("quit")
        assert shell.ended() == 0
    kept = tmp_path / ".local" / "state" / "breenix-gdbagent"
    assert kept.stat().st_mode & 0o077 == 0
    assert "print 1234 + 1" in (kept / "history").read_text()
    with Terminal(tmp_path, *FOREVER) as shell:
        shell.ready()
        shell.keys("\x12234")
        shell.until(r"print 1234 \+ 1", everywhere=True)
        shell.keys("\r\r")
        shell.until(r"^1235$", everywhere=True)


def test_a_line_that_goes_on(tmp_path: Path) -> None:
    """After a backslash or an operator Enter begins another line of the same command."""
    with Terminal(tmp_path, *FOREVER) as shell:
        shell.ready()
        shell.keys("print 1 == 1 and\r1 == 2\r")
        shell.until(r"^false$")
        shell.ready()
        shell.keys("print 20 + \\\r22\r")
        shell.until(r"^42$")


def test_a_long_answer_goes_through_a_pager(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\necho "pager begins"\ncat\necho "pager ends"\n')
    pager.chmod(0o755)
    with Terminal(tmp_path, *FOREVER, lines=24, PAGER=str(pager)) as shell:
        shown = shell.run("help", r"^pager ends$")
        assert shown.startswith("pager begins\nrunning:")
        assert "pager" not in shell.run("help quit", r"leave")


def test_a_dumb_terminal(tmp_path: Path) -> None:
    """No escape sequence at all, one line after the other, and Ctrl-C is still the guest's."""
    with Terminal(tmp_path, *FOREVER, term="dumb") as shell:
        shell.run("tbreak syscall_entry", r"^1: breakpoint at syscall_entry")
        shell.run("continue", r"^\(syscall_entry in \w+ \(pid \d\)\)")
        shell.enter("continue")
        shell.until(r"^ENOSYS OK$")
        shell.keys("\x03")
        shell.until(r"^── interrupt ")
        shell.run("registers", r"cr0 0x80010013")
        shell.enter("quit")
        assert shell.ended() == 0
        assert b"\x1b" not in shell.raw


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=["SIGHUP", "SIGTERM"])
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_nothing_is_left_behind(tmp_path: Path, number: int, running: bool) -> None:
    """The terminal is closed, or the shell is ended, while the guest runs or stands: no QEMU, no
    run directory."""
    with Terminal(tmp_path, *FOREVER) as shell:
        shell.run("wait initialization complete", r"^── serial text")
        if running:
            shell.enter("continue")
            shell.until(r"^\(running\)$")
        qemu, rundir = held(shell.child.pid)
        assert rundir.is_dir()
        os.kill(shell.child.pid, number)
        shell.ended()
        _gone(qemu, rundir)


def test_end_of_input_is_quit(tmp_path: Path) -> None:
    with Terminal(tmp_path, *FOREVER) as shell:
        shell.ready()
        qemu, rundir = held(shell.child.pid)
        shell.keys("\x04")
        assert shell.ended() == 0
        _gone(qemu, rundir)


def held(pid: int) -> tuple[int, Path]:
    """(pid of QEMU, the run directory) of a shell, by /proc."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    for child in (word for task in tasks for word in task.read_text().split()):
        line = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if b"qemu" in line[0]:
            ram = next(word for word in line if b"mem-path=" in word).decode()
            path = re.search(r"mem-path=([^,]+)", ram)
            assert path is not None
            return int(child), Path(path[1]).parent
    raise AssertionError("the shell has no QEMU")


def _gone(pid: int, rundir: Path) -> None:
    """Both have ended, or do so soon."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        ended = select.select([fd], [], [], SECONDS)[0]
        os.close(fd)
        assert ended, "QEMU goes on"
    limit = time.monotonic() + SECONDS
    while rundir.exists() and time.monotonic() < limit:
        select.select([], [], [], TICK)
    assert not rundir.exists()
