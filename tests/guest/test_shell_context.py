"""The view at a stop, at 80 and at 200 columns; gdb and QEMU's monitor are the judges."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gdb import gdb_command
from tests.guest.live_support import ELF, beside, needs_qemu
from tests.guest.shellterm import Terminal

pytestmark = needs_qemu

SIZES = pytest.mark.parametrize("columns", [80, 200])
RECURSE = "kernel::scenarios::probes::recurse"


def view(shell: Terminal, line: str, why: str) -> list[str]:
    """The rows of the view that a command comes to, from its rule to the prompt."""
    shown = shell.run(line, rf"^── {why}").splitlines()
    first = max(n for n, row in enumerate(shown) if row.startswith("── "))
    last = next(n for n, row in enumerate(shown[first:], first) if row.startswith("("))
    return shown[first:last]


@SIZES
def test_a_fault(tmp_path: Path, columns: int) -> None:
    """Every part of the view, at a fault with source, a folded recursion and a new finding."""
    with Terminal(tmp_path, "--lab", "guard-page", columns=columns, lines=80) as shell:
        rows = view(shell, "continue", r"exception 14 \(#PF\), caught before its handler runs")
        text = "\n".join(rows)
        assert len(rows[0]) == columns
        assert rows[1].startswith("CPU 0 ring 0, clock_gettime_test (pid 2), thread 3 clock_gett")
        for part in (
            r"\brip 0x80000\w+",
            r"\bcr3 0x\w+",
            r"eflags 0x\w+ \[[A-Z ]*\]",
            r"cr0 0x80010013 \[PE MP ET WP PG\]",
            r"cr4 0x620 \[PAE OSFXSR OSXMMEXCPT\]",
            r"efer 0xd00 \[LME LMA NXE\]",
            r"interrupted ring 0 at 0x80000\w+ <kernel::scenarios::probes::recurse\+0x",
            r"probes\.rs:\d+ in kernel::scenarios::probes::recurse",
            r"^> +\d+ pub fn recurse\(",
            r"^=> 0x80000\w+  \w+ ",
            r"#0  0x80000\w+ kernel::interrupts::page_fault_handler",
            r"--- 14 \(#PF\) interrupted ---",
            r"more rounds of the recursion",
            r"ring 3$",
            r"stack at 0xffffc98000\w+, IST2 \(#PF\)",
            r"\+8 +0x80000\w+ <kernel::scenarios::probes::recurse\+0x",
            r"^ERROR page-fault\.guard-page: ",
            r"^fault explains it$",
        ):
            assert re.search(part, text, re.MULTILINE), part
        side_by_side = [row for row in rows if "=>" in row or row.startswith(">")]
        frames = [row for row in rows if "#0 " in row]
        assert (rows.index(frames[0]) < rows.index(side_by_side[-1])) == (columns == 200)


@SIZES
def test_no_row_is_broken_by_the_terminal(tmp_path: Path, columns: int) -> None:
    """What a pipe of that width gets, line by line, stands on the screen row by row."""
    target = ("--lab", "guard-page", "--deterministic")
    piped = subprocess.run(
        [sys.executable, "-m", "breenix_gdbagent", "shell", *target, "-c", "continue"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": str(columns)},
    )  # fmt: skip
    with Terminal(tmp_path, *target, columns=columns, lines=80) as shell:
        rows = view(shell, "continue", "exception 14")
    lines = [line.rstrip() for line in piped.stdout.splitlines()]
    assert max(map(len, lines)) <= columns
    timed = re.compile(r", \d+\.\d+ s$")
    assert [timed.sub("", row) for row in rows] == [timed.sub("", line) for line in lines]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (80, 40), (200, 24)])
def test_a_low_terminal_shows_the_whole_view(tmp_path: Path, columns: int, lines: int) -> None:
    """Why it stopped has not scrolled away when the prompt is there."""
    with Terminal(tmp_path, "--lab", "clean", columns=columns, lines=lines) as shell:
        shell.run("break syscall_entry")
        view(shell, "continue", "1: breakpoint")
        view(shell, "stepi", "step")
        text = "\n".join(shell.screen.display)
        for part in ("── stepi", "rip 0x", "=> 0x", "#0 ", "stack at 0x"):
            assert part in text, part
        assert shell.line.startswith("(syscall_entry+0x2 in ")


def test_findings_are_told_once(tmp_path: Path) -> None:
    with Terminal(tmp_path, "--lab", "guard-page", lines=80) as shell:
        view(shell, "continue", "exception 14")
        again = view(shell, "stepi", "step")
        assert not any(row.startswith("ERROR") for row in again)
        assert "page-fault.guard-page" not in "\n".join(again)


def test_what_has_changed_is_marked(tmp_path: Path) -> None:
    """`push 0` changes RSP and RIP and nothing else."""
    with Terminal(tmp_path, "--lab", "clean", lines=80) as shell:
        shell.run("tbreak syscall_entry")
        shell.run("continue", r"^── \d+: breakpoint")
        rows = view(shell, "stepi", "step")
        assert set(re.findall(r"\*(\w+) ", "\n".join(rows))) == {"rsp", "rip"}


def test_the_registers_are_qemus(tmp_path: Path) -> None:
    """Of a guest that the test's own QEMU runs: `info registers` on another monitor."""
    with beside(tmp_path, "marker-missing") as qemu:
        target = ("--gdb", qemu.gdb, "--qmp", qemu.qmp, "--ram", str(qemu.ram))
        with Terminal(tmp_path, *target, "--kernel", str(ELF), columns=120, lines=80) as shell:
            shell.run("tbreak timer_interrupt_entry")
            text = "\n".join(view(shell, "continue", r"\d+: breakpoint at timer_interrupt_entry"))
            told = qemu.monitor("info registers")
            pairs = re.findall(r"\b(R\w+|CR\d|EFER) ?=\s*([0-9a-f]+)", told)
            truth = {name: int(value, 16) for name, value in pairs}
            shown = {n: int(v, 16) for n, v in re.findall(r"[ *](\w+) +(0x[0-9a-f]+)", text)}
            for ours, theirs in (("eflags", "RFL"), *((n, n.upper()) for n in NAMES)):
                assert shown[ours] == truth[theirs], ours


NAMES = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r15", "rip",
         "cr0", "cr2", "cr3", "cr4", "efer")  # fmt: skip


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")
def test_code_and_frames_are_gdbs(tmp_path: Path) -> None:
    """Of a snapshot, which gdb opens: the instruction at RIP and the frames' addresses."""
    stop = tmp_path / "stop"
    with Terminal(tmp_path, "--lab", "guard-page", columns=120, lines=80) as shell:
        shell.run(f"tbreak {RECURSE}")
        rows = view(shell, "continue", r"\d+: breakpoint")
        shell.run("save stop", r"stop: [\d,]+ bytes")
    done = subprocess.run(
        gdb_command("-batch", "-ex", "set disassembly-flavor intel", "-ex", "x/i $pc",
                    "-ex", "bt 3", str(ELF), str(stop)),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    here = re.search(r"=> (0x[0-9a-f]+).*?:\s*(\w+)", done.stdout)
    assert here is not None, done.stdout + done.stderr
    ours = next(re.search(r"=> (0x[0-9a-f]+)  (\w+)", row) for row in rows if row.startswith("=>"))
    assert ours is not None
    assert int(ours[1], 16) == int(here[1], 16)
    line = re.search(r"^#0 .* at (\S+):(\d+)", done.stdout, re.MULTILINE)
    assert line is not None
    at = next(m for row in rows if (m := re.match(r"(\S+\.rs):(\d+) in ", row)))
    assert line[1].endswith(at[1].split("/", 1)[-1])
    assert line[2] == at[2]
    pcs = re.findall(r"^#\d+ +(0x[0-9a-f]+) in", done.stdout, re.MULTILINE)
    frames = [m[1] for row in rows if (m := re.match(r"#\d+ +(0x[0-9a-f]+) ", row))]
    assert [int(p, 16) for p in pcs][:2] == [int(f, 16) for f in frames[1:3]]


def test_a_stop_without_paging_says_so(tmp_path: Path) -> None:
    with Terminal(tmp_path, "--lab", "clean") as shell:
        shown = shell.run("context", r"^── attached")
        assert "paging is off" in shown or "real mode" in shown


def test_the_end_of_the_guest(tmp_path: Path) -> None:
    with Terminal(tmp_path, "--lab", "unexpected-exit", lines=60) as shell:
        shell.run("continue", r"^── exit: QEMU has ended")
        assert shell.line == "(QEMU has ended)"
        shell.run("continue", r"^.*QEMU.*(ended|end)")
        assert shell.run("help quit", "leave")
