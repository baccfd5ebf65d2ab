"""The shell: by script and in a real terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pexpect
import pytest

from tests.guest.labrun import agent

SECONDS = 30


def test_commands_of_one_line() -> None:
    result = agent(
        "shell", "--lab", "page-fault-unmapped",
        "-c", "break syscall_entry", "-c", "continue", "-c", "delete", "-c", "continue",
        "-c", "fault", "-c", "bt", "-c", "walk 0xffffc90000001000", "-c", "stacks", "-c", "roots",
    )  # fmt: skip
    assert "── 1: breakpoint at syscall_entry " in result.out
    assert "── exception 14 (#PF), caught before its handler runs " in result.out
    assert "page-fault.unmapped" in result.out
    assert "14 (#PF) interrupted" in result.out
    assert "IST1 (#DF)" in result.out
    assert result.code == 1  # `fault` found an error
    assert result.err == ""


def test_steps_by_source_line() -> None:
    """`step` and `next` end on another line, `finish` behind the call that bt named."""
    here = "kernel::interrupts::handlers::syscall"
    start = ("-c", f"break {here}", "-c", "continue", "-c", "delete")
    result = agent(
        "shell", "--lab", "clean", *start,
        "-c", "step", "-c", "next", "-c", "next", "-c", "bt", "-c", "finish",
        "-c", "tbreak timer_interrupt_entry", "-c", "continue",
    )  # fmt: skip
    assert result.code == 0, result.err
    steps = result.out.split("\n── ")[1:]
    lines = [re.search(r"^\S+\.rs:\d+", step, re.MULTILINE) for step in steps[:4]]
    assert all(lines)
    assert all(a != b for a, b in pairwise(line[0] for line in lines if line))
    assert "scheduler::with " not in result.out  # `next` went over the call
    caller = re.search(r"^#1 +(0x[0-9a-f]+) ", steps[3], re.MULTILINE)
    assert caller is not None
    assert f"=> {caller[1]}" in steps[4]
    assert "timer_interrupt_entry:" in steps[5]


def test_a_count_and_text_to_come() -> None:
    """`continue 3` is at the third hit from now; text that came before is no match for it."""
    result = agent(
        "shell", "--lab", "clean", "-c", "break syscall_entry", "-c", "continue",
        "-c", "continue 3", "-c", "delete", "-c", "continue LAB ", "-c", "continue 2",
    )  # fmt: skip
    titles = re.findall(r"^── (.*?) ─", result.out, re.MULTILINE)
    assert titles[:2] == ["1: breakpoint at syscall_entry", "1: breakpoint at syscall_entry, hit 4"]
    assert titles[2].startswith("serial text: [ INFO] kernel: LAB COMPLETE")
    assert result.code == 2
    assert "it stands at none" in result.err


def test_a_file_of_commands(tmp_path: Path) -> None:
    script = tmp_path / "commands"
    script.write_text("# on a snapshot\nregisters\nps\nquit\nnever reached\n")
    stop = tmp_path / "stop"
    assert agent("snapshot", "--lab", "clean", "-o", str(stop)).code == 0
    result = agent("shell", "--snapshot", str(stop), "--batch", str(script))
    assert result.code == 0, result.err
    assert "cr3" in result.out
    assert "clock_gettime_test" in result.out


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("frobnicate", "no command"),
        ("walk", "required"),
        ("break zork", "no symbol"),
        ("stepi x", "no number"),
        ("delete 9", "no point 9"),
        ("print 'unbalanced", "cannot read"),
    ],
)
def test_mistakes_are_said_and_the_shell_goes_on(line: str, word: str) -> None:
    result = agent("shell", "--lab", "-c", line, "-c", "help quit")
    assert word in result.err
    assert "leave" in result.out
    assert result.code in (1, 2)


def test_a_snapshot_does_not_run(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    agent("snapshot", "--lab", "clean", "-o", str(stop))
    result = agent("shell", "--snapshot", str(stop), "-c", "continue")
    assert result.code == 2
    assert "does not run" in result.err


@pytest.fixture(scope="module")
def stop(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A snapshot of the lab guest's guard-page scenario."""
    place = tmp_path_factory.mktemp("shell") / "stop"
    assert agent("snapshot", "--lab", "guard-page", "-o", str(place)).code == 1
    return str(place)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["-c", "roots"], 0, ""),
        (["-c", "roots", "-c", "frobnicate", "-c", "roots"], 2, "no command 'frobnicate'"),
        (["-c", "walk 0x1000"], 1, ""),
        (["-c", "audit"], 1, ""),
        (["-c", "memory zork"], 1, "no symbol 'zork'"),
        (["-c", "print 1 +"], 2, "cannot read '1 +'"),
        (["-c", "quit", "-c", "frobnicate"], 0, ""),
        (["-c", "# a remark"], 0, ""),
        (["-c", "pt roots"], 2, "did you mean roots?"),
        (["-c", "cpu 3"], 2, "there is no CPU 3"),
        (["-c", "ipython"], 2, "IPython"),
        (["-c", "console"], 2, "does not run"),
        (["-c", "gdb"], 2, "does not run"),
        (["--batch", "there-is-none"], 2, "cannot read there-is-none"),
        (["--batch", "."], 2, "Is a directory"),
        (["-c", "roots", "--batch", "x"], 2, "at once"),
        (["--source", "there-is-none"], 2, "no directory"),
        (["--ipython"], 2, "IPython"),
        (["--ipython", "-c", "roots"], 2, "give one"),
    ],
)
def test_exit_codes(stop: str, arguments: list[str], code: int, word: str) -> None:
    result = agent("shell", "--snapshot", stop, *arguments)
    assert (result.code, word in result.err) == (code, True), result.err
    assert len(result.err.splitlines()) <= 3


def test_commands_from_a_pipe(stop: str) -> None:
    result = agent("shell", "--snapshot", stop, stdin="roots\n\n# a remark\nprint ring\nzork\n")
    assert result.code == 2
    assert "master" in result.out
    assert result.out.endswith("\n0\n")
    assert "no command 'zork'" in result.err
    assert "\x1b" not in result.out


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[pexpect.spawn]:
    """The shell on a guest that never ends, in a pty."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "breenix_gdbagent", "shell", "--lab", "marker-missing"],
        env={"TERM": "dumb", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        encoding="utf-8",
        timeout=SECONDS,
        dimensions=(40, 120),
    )
    yield child
    child.close(force=True)


def test_in_a_terminal_that_can_do_nothing(terminal: pexpect.spawn) -> None:
    """A breakpoint by symbol, its place in the prompt, Ctrl-C for the guest, and leaving."""
    terminal.expect("not started")
    terminal.sendline("break syscall_entry")
    terminal.expect("breakpoint at syscall_entry")
    terminal.sendline("continue")
    terminal.expect("1: breakpoint at syscall_entry ")
    terminal.expect(r"\(syscall_entry in [a-z_]+ \(pid [123]\)\)")
    terminal.sendline("delete")
    terminal.sendline("continue")
    terminal.expect("ENOSYS OK")  # its serial text: it runs
    terminal.sendintr()
    terminal.expect("── interrupt ")
    terminal.sendline("registers")
    terminal.expect("cr3 +0x")
    terminal.sendline("quit")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0
