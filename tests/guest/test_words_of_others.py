"""The table for hands that know another debugger: its last column is typed into a real terminal,
and where gdb can answer the same question of the same stop, it judges."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from breenix_gdbagent.commands.shell.texts import find
from tests.gdb import gdb_command
from tests.guest.debugged import BASE
from tests.guest.live_support import ELF, needs_qemu
from tests.guest.shellterm import Terminal

pytestmark = needs_qemu

PAGE = Path(__file__).parents[2] / "docs" / "for-other-hands.md"
# (line, what the terminal shows below it; None: only the next prompt).
LINES: tuple[tuple[str, str | None], ...] = (
    ("tbreak kernel::interrupts::handlers::syscall", r"^\d+: breakpoint at"),
    ("continue", r"── \d+: breakpoint at kernel::interrupts::handlers::syscall"),
    ("context", r"eflags 0x\w+ \["),
    ("registers", r"cr0 0x\w+ \[PE"),
    ("info registers rip", r"^rip +0x\w+ +0x\w+ <kernel::interrupts::handlers::syscall>"),
    ("print $pc", r"^0x\w+ <kernel::interrupts::handlers::syscall>$"),
    ("p/x 255", r"^0xff$"),
    ("print *rsp", r"^0x\w+ <syscall_entry\+0x\w+>$"),
    ("print &syscall_entry", r"^0x\w+ <syscall_entry>$"),
    ("print *(gs_base as *const u64)", r"^(0x\w+|\d+)"),
    ("print u64[rsp..rsp+32]", r"^\[0x\w+"),
    ("print SCHEDULER.current_thread", r"^Some\(\d+\)$"),
    ("args", r"^frame = TrapFrame"),
    ("locals", r"has no locals here"),
    ("frame 1", r"^#1  0x\w+ in syscall_entry"),
    ("up", r"^#2  0x\w+ in ring 3"),
    ("down 2", r"^#0  0x\w+ in kernel::interrupts::handlers::syscall\("),
    ("info frame", r"stack pointer 0x"),
    ("bt", r"^#2 .*ring 3"),
    ("bt 1", r"more frame"),
    ("bt full", r"^ +frame = TrapFrame"),
    ("foreach thread bt 2", r"^thread 1 idle"),
    ("x/3i rip", r"^=> 0x\w+ <kernel::interrupts::handlers::syscall>:\s+push r15"),
    ("x/2gx rsp", r"^0x\w+:\s+0x[0-9a-f]{16}\s+0x[0-9a-f]{16}$"),
    ("x/s 0x8000000001", r'"ELF'),
    ("xp/2wx 0x0", r"^0x0:\s+0x[0-9a-f]{8}"),
    ("memory rsp 16", r"^0x\w+  (\w\w ){16}"),
    ("telescope rsp 2", r"^\+000 0x\w+ rsp +0x\w+ <syscall_entry"),
    ('search --ram "Process management"', r"^0x\w+"),
    ("disassemble syscall_entry", r"push 0"),
    ("list", r"is at \S+handlers\.rs:\d+"),
    ("info line kernel::interrupts::handlers::syscall", r"^line \d+ of"),
    ("info symbol rip", r"in section \.text"),
    ("info functions handlers::syscall$", r"^0x\w+  kernel::interrupts::handlers::syscall"),
    ("info types ::Thread$", r"^kernel::task::thread::Thread"),
    ("type kernel::task::thread::Thread", r"kernel_stack_top"),
    ("walk rip", r"PML4 \["),
    ("vmmap", r"r-xs  pvh_entry"),
    ("idt 128", r"<syscall_entry>"),
    ("gdt", r"<- cs"),
    ("tss", r"^  rsp0  0x"),
    ("msr", r"IA32_EFER"),
    ("irq", r"<timer_interrupt_entry>  IRQ 0"),
    ("locks", r"^(held|no lock is held)"),
    ("ps", r"clock_gettime_test"),
    ("info threads", r"idle"),
    ("foreach process print pid", r"^process 2 clock_gettime_test:"),
    ("display/x rax", r"^1: /x rax = 0x"),
    ("stepi", r"^1: /x rax = 0x"),
    ("undisplay 1", None),
    ("nexti", r"^── nexti ──"),
    ("next", r"^── next ──"),
    ("finish", r"^── finish ──"),
    ("trace syscall_entry..syscall_entry+4", r"push 0 .* rsp 0x"),
    ("watch SCHEDULER.current_thread", r"watch SCHEDULER\.current_thread"),
    ("checkpoint syscall_entry rax, pid", r"checkpoint at syscall_entry"),
    ("continue --for 0.2", r"^── (deadline|\d+: watch)"),
    ("info breakpoints", r"watch SCHEDULER"),
    ("delete", None),
    ("tbreak syscall_entry", r"^\d+: breakpoint"),
    ("commands", r"until `end`"),
    ("print 6 * 7", r"until `end`"),
    ("end", None),
    ("continue", r"^42$"),
    ("define mine", r"until `end`"),
    ("print $arg0 + 1", r"until `end`"),
    ("end", None),
    ("mine 41", r"^42$"),
    ("source script", r"^from a file$"),
    ("!echo from-$((40+2))", r"^from-42$"),
    ("pipe ps | grep -c clock", r"^1$"),
    ("set rax = 1", r"only looks: nothing is written"),
    ("interrupt timer at syscall_entry", r"only looks: nothing is written"),
    ("fault", r"this stop is no fault"),
    ("blame", r"^nothing to blame"),
    ("serial 2", r"^COM1:"),
    ("save stop", r"stop: [\d,]+ bytes"),
    ("help vmmap", r"^map \[ROOT\]"),
)  # fmt: skip


def _rows() -> list[list[str]]:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    split = [re.split(r"(?<!\\)\|", row.strip("|")) for row in rows]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in split][1:]


def test_the_page_says_what_is_typed() -> None:
    typed = [line for row in _rows() for line in re.findall(r"`([^`]+)`", row[6])]
    assert typed == [line for line, _ in LINES]


def test_no_cell_is_empty_and_every_word_is_a_command() -> None:
    for row in _rows():
        assert len(row) == 7 and all(row), row
        for line in re.findall(r"`([^`]+)`", row[6]):
            word = re.split(r"[\s/]", line)[0]
            if not line.startswith("!") and word not in ("end", "mine"):
                assert find(word)


def test_every_row_in_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("!echo from a file\n")
    with Terminal(tmp_path, "--lab", "marker-missing", lines=200, columns=140) as shell:
        for line, pattern in LINES:
            shown = shell.run(line, pattern)
            if pattern is None:
                assert shown.splitlines()[0].startswith("("), shown


JUDGED = {
    "p/x 255": "p/x 255",
    "x/2gx rsp": "x/2gx $rsp",
    "x/8bx rsp": "x/8bx $rsp",
    "x/4wx rsp": "x/4wx $rsp",
    "x/2dw rsp": "x/2dw $rsp",
    "x/3i rip": "x/3i $pc",
    "print/d u64[rsp]": "p/d *(long *)$rsp",
    "print/t 10": "p/t 10",
    "print/o 64": "p/o 64",
    "print/c 65": "p/c 65",
    "info symbol rip": "info symbol $pc",
}
"""Ours, and what gdb is asked of the same stop."""


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")
def test_gdb_says_the_same(tmp_path: Path) -> None:
    agent = (sys.executable, "-m", "breenix_gdbagent")
    saved = tmp_path / "stop"
    subprocess.run(
        [*agent, "snapshot", "--lab", "clean", "--at", "kernel::interrupts::handlers::syscall",
         "-o", str(saved)],
        check=False, capture_output=True,
    )  # fmt: skip
    ours = [part for line in JUDGED for part in ("-c", "!echo @", "-c", line)]
    said = subprocess.run(
        [*agent, "shell", "--snapshot", str(saved), *ours],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    theirs = [part for line in JUDGED.values() for part in ("-ex", "echo @\\n", "-ex", line)]
    judged = subprocess.run(
        gdb_command(
            "-batch", "-ex", "set language c", "-ex", "set disassembly-flavor intel",
            "-ex", f"symbol-file -o {BASE:#x} {ELF}", "-ex", f"core-file {saved}", *theirs,
        ),
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    mine, its = said.split("@\n")[1:], judged.split("@\n")[1:]
    assert len(mine) == len(its) == len(JUDGED)
    for line, one, other in zip(JUDGED, mine, its, strict=True):
        assert _numbers(one) == _numbers(other), (line, one, other)


def _numbers(text: str) -> list[str]:
    """What is compared: numbers and instructions, without names of places and gdb's ``$1 =``."""
    text = re.sub(r"^\$\d+ = ", "", text.strip(), flags=re.MULTILINE)
    text = re.sub(r"::h[0-9a-f]{16}|<[^>]*(<[^>]*>)?[^>]*>", "", text)
    words = re.split(r"[\s:,]+", text)
    return [str(int(w, 0)) if re.fullmatch(r"0x[0-9a-f]+|[1-9]\d*", w) else w for w in words if w]
