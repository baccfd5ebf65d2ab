"""Every command of the shell's own table, driven in a pty on the lab guest."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from breenix_gdbagent.commands.shell.texts import COMMANDS, GROUPS
from tests.guest.live_support import needs_qemu
from tests.guest.shellterm import Terminal

pytestmark = needs_qemu

SYSCALL = "kernel::interrupts::handlers::syscall"
STOPPED = r"^\*?.*── "

# (command, line, what the terminal must show below it; None: nothing, only the next prompt).
# {number} is that of the point set last.
LINES: tuple[tuple[str, str, str | None], ...] = (
    ("help", "help break", r"stop at a location"),
    ("wait", "wait Process management initialized", r"serial text: .*Process management"),
    ("tbreak", f"tbreak {SYSCALL}", rf"breakpoint at {SYSCALL}, at 0x"),
    ("continue", "continue", rf"── \d+: breakpoint at {SYSCALL} "),
    ("context", "context", r"eflags 0x\w+ \["),
    ("source", "source .", None),
    ("list", "list", r"is at \S+handlers\.rs:\d+"),
    ("disassemble", "disassemble syscall_entry", r"push"),
    ("step", "step", r"^── step ──"),
    ("next", "next", r"^── next ──"),
    ("stepi", "stepi 2", r"^── stepi ──"),
    ("nexti", "nexti", r"^── nexti ──"),
    ("until", "until", r"^── until ──"),
    ("finish", "finish", r"^── finish ──"),
    ("interrupt", "interrupt", r"stands still already"),
    ("break", "break syscall_entry process 2", r"^\d+: breakpoint at syscall_entry process 2"),
    ("break", "continue", r"── \d+: breakpoint at syscall_entry process 2 "),
    ("condition", "condition {number} rax == 1", None),
    ("ignore", "ignore {number} 3", None),
    ("disable", "disable {number}", None),
    ("disable", "break", r"^ +\d+  off  .*process 2 if rax == 1 [\s\S]*3\s+to pass"),
    ("enable", "enable {number}", None),
    ("enable", "break", r"^ +\d+  breakpoint at syscall_entry process 2 if rax == 1"),
    ("watch", "watch SCHEDULER.current_thread", r"watch SCHEDULER\.current_thread, .*now .*3"),
    ("checkpoint", "checkpoint timer_interrupt_entry pid", r"checkpoint at timer_interrupt_entry"),
    ("invariant", "invariant kernel-stacks at syscall_entry", r"invariant kernel-stacks at"),
    ("catch", "catch", r"faults that stop the guest: unexpected"),
    ("delete", "delete", None),
    ("delete", "break", r"^no points"),
    ("registers", "registers", r"cr0 0x80010013 \[PE MP ET WP PG\]"),
    ("cpu", "cpu", r"^\* CPU 0 ring 0 at 0x\w+ <syscall_entry>, thread 3 clock_gettime_test"),
    ("percpu", "percpu", r"kernel_cr3 +0x\w+  master"),
    ("walk", "walk rip", r"PML4 \[  1\]"),
    ("roots", "roots", r"^0x\w+ +master +yes"),
    ("map", "map", r"r-xs  pvh_entry"),
    ("who", "who cr3", r"a level 4 table of clock_gettime_test"),
    ("stacks", "stacks", r"IST1 \(#DF\)"),
    ("stack", "stack 4", r"^stack at 0x\w+, slot 2"),
    ("memory", "memory rsp 16", r"^0xffffc900000\w+  (\w\w ){16}"),
    ("audit", "audit", r"EXAMINED: nothing found"),
    ("fault", "fault", r"this stop is no fault"),
    ("serial", "serial 2", r"^COM1:"),
    ("bt", "bt", r"^#1 .*ring 3"),
    ("ps", "ps", r"clock_gettime_test"),
    ("threads", "threads", r"idle"),
    ("heap", "heap", r"0x444444440000"),
    ("frames", "frames", r"frame"),
    ("symbol", "symbol syscall_entry", r"0x80000\w+"),
    ("x", "x/2i rip", r"^=> 0x\w+ <syscall_entry>:\s+push 0"),
    ("x", "x/2gx rsp", r"^0x\w+:\s+0x[0-9a-f]{16}\s+0x[0-9a-f]{16}$"),
    ("xp", "xp/1bx 0x0", r"^0x0:\s+0x[0-9a-f]{2}$"),
    ("search", "search &syscall_entry", r"^(0x\w+|.* is nowhere in this space)"),
    ("telescope", "telescope rsp 2", r"^\+000 0x\w+ rsp +0x"),
    ("idt", "idt 128", r"^ 128 +0x\w+ <syscall_entry>"),
    ("gdt", "gdt", r"64-bit code, DPL 0.*<- cs"),
    ("tss", "tss", r"^  rsp0  0x\w+  slot"),
    ("msr", "msr", r"IA32_EFER"),
    ("irq", "irq", r"<timer_interrupt_entry>  IRQ 0, the timer"),
    ("locks", "locks", r"^(held|no lock is held, of \d+)"),
    ("blame", "blame", r"^nothing to blame"),
    ("display", "display/x rax", r"^1: /x rax = 0x"),
    ("undisplay", "undisplay 1", None),
    ("foreach", "foreach process print pid", r"^process 2 clock_gettime_test:"),
    ("pipe", "pipe ps | grep -c clock", r"^1$"),
    ("shell", "!echo from-$((40+2))", r"^from-42$"),
    ("define", "define mine", r"^\(until `end`\)"),
    ("define", "print $arg0 + 1", r"^\(until `end`\)"),
    ("define", "end", None),
    ("define", "mine 41", r"^42$"),
    ("set", "set rax = 1", r"only looks: nothing is written"),
    ("set", "set $kept = 5", None),
    ("set", "print $kept * 2", r"^10$"),
    ("trace", "trace syscall_entry..syscall_entry+4", r"push 0 .* rsp 0x"),
    ("trace", "tbreak syscall_entry process 2", r"^\d+: "),
    ("commands", "commands", r"^\(until `end`\)"),
    ("commands", "print 6 * 7", r"^\(until `end`\)"),
    ("commands", "end", None),
    ("commands", "continue", r"^42$"),
    ("frame", "frame 1", r"^#1  0x\w+ in ring 3"),
    ("down", "down", r"^#0  0x\w+ in syscall_entry"),
    ("up", "up", r"^#1  0x\w+ in ring 3"),
    ("args", "args", r"^no arguments are known here"),
    ("locals", "locals", r"^no locals are known here"),
    ("frame", "frame 0", r"^#0  0x\w+ in syscall_entry"),
    ("info", "info registers rip", r"^rip +0x\w+ +0x\w+ <syscall_entry"),
    ("info", "info line kernel::interrupts::handlers::syscall", r"^line \d+ of .\S+handlers\.rs"),
    ("info", "info symbol rip", r"^syscall_entry in section \.text"),
    ("info", "info functions handlers::syscall$", r"^0x\w+  kernel::interrupts::handlers::sys"),
    ("info", "info types ::Thread$", r"^kernel::task::thread::Thread"),
    ("info", "info b", r"^no points"),
    ("print", "print SCHEDULER.current_thread", r"^(Some\(3\)|3)$"),
    ("type", "type kernel::task::thread::Thread", r"kernel_stack_top"),
    ("save", "save stop", r"stop: [\d,]+ bytes"),
    ("send", "send hello", None),
    ("script", "script script", r"serial text: .*ENOSYS"),
    ("reset", "reset", r"stands before its first instruction"),
    ("quit", "quit", None),
)  # fmt: skip
IN_TIME = {command.name for command in GROUPS["in time"]}
"""They need a recording: driven in test_time_travel.py."""
ALONE = {"gdb", "ipython", "console", *IN_TIME}
"""Driven in tests of their own."""


def test_every_command_has_a_line() -> None:
    driven = {command for command, _, _ in LINES}
    assert driven | ALONE == set(COMMANDS)
    assert not driven & ALONE


def test_every_line(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("send hello\nexpect ENOSYS OK\n")
    with Terminal(tmp_path, "--lab", "marker-missing", lines=120) as shell:
        number = ""
        for command, template, pattern in LINES:
            line = template.format(number=number)
            if command == "quit":
                shell.enter(line)
                assert shell.ended() == 0
                return
            shown = shell.run(line, pattern)
            set_now = re.match(r"(\d+): ", shown)
            number = set_now[1] if set_now is not None else number
            if pattern is None:
                assert shown.splitlines()[0].startswith("("), shown


def test_the_console(tmp_path: Path) -> None:
    with Terminal(tmp_path, "--lab", "marker-missing") as shell:
        shell.enter("console")
        shell.until(r"^the guest runs on from this stop")
        shell.until(r"Ctrl-\] comes back")
        shell.until(r"^ENOSYS OK")
        shell.keys("typed\r\x1d")
        shell.until(r"the guest runs on")
        shell.until(r"^\(running\)")


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")
def test_a_question_to_gdb(tmp_path: Path) -> None:
    with Terminal(tmp_path, "--lab", "marker-missing", columns=200) as shell:
        shell.run("tbreak syscall_entry")
        shell.run("continue", r"── \d+: breakpoint")
        shell.run("gdb $rip", r"^0x\w+ <syscall_entry>$")
        shell.run("gdb", r"target remote .*/gdb")


def test_python(tmp_path: Path) -> None:
    """IPython with the guest bound, or one sentence where it is not installed."""
    with Terminal(tmp_path, "--lab", "clean") as shell:
        shell.enter("ipython")
        if importlib.util.find_spec("IPython") is None:
            shell.until(r"^IPython is not installed$")
            return
        shell.until(r"^In \[1\]:")
        shell.keys('vm.run_until("syscall_entry").reason.kind\r')
        shell.until(r"Out\[1\]: 'breakpoint'")
        shell.keys("\x04")
        shell.until(r"^\((moved by Python|syscall_entry)")
        assert "syscall_entry" in shell.run("bt", r"^#0 ")
