"""The bridge: a real gdb beside the shell, and clients that mean no good."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from tests.gdb import gdb_command
from tests.guest.debugged import SYSCALL, va
from tests.guest.labrun import agent
from tests.guest.live_support import ELF, needs_qemu

pytestmark = needs_qemu
needs_gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")

SECONDS = 60
PROMPT = r"\r\n\([^()\r\n]*(?:\([^()\r\n]*\))?[^()\r\n]*\) "


class Shell:
    """Our shell in a pty that can do nothing, stopped at the first system call, bridge open."""

    def __init__(self, home: Path, *target: str) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "breenix_gdbagent", "shell", *(target or ("--lab", "marker-missing"))],
            env={**os.environ, "TERM": "dumb", "HOME": str(home)},
            encoding="utf-8",
            timeout=SECONDS,
            dimensions=(60, 160),
        )
        if not target:
            self.child.expect("not started")
            self.run(f"tbreak {SYSCALL}", "where the kernel may be")
            self.run("continue", f"breakpoint at {SYSCALL} ")
        found = self.run("gdb", r"target remote (\S+)'")
        self.socket = found[1]

    def run(self, line: str, pattern: str) -> re.Match[str]:
        self.child.sendline(line)
        self.child.expect(pattern)
        assert isinstance(self.child.match, re.Match)
        return self.child.match

    def leave(self) -> None:
        self.child.sendline("quit")
        self.child.expect(pexpect.EOF)
        self.child.close()
        assert self.child.exitstatus == 0


@contextmanager
def shell(home: Path, *target: str) -> Iterator[Shell]:
    one = Shell(home, *target)
    try:
        yield one
    finally:
        one.child.close(force=True)


class Gdb:
    """A real gdb in a pty, as its user would start it."""

    def __init__(self, where: str) -> None:
        command = gdb_command("-ex", "set pagination off", "-ex", "set confirm off", str(ELF))
        self.child = pexpect.spawn(
            command[0],
            command[1:],
            env={**os.environ, "TERM": "dumb", "INPUTRC": "/dev/null"},
            encoding="utf-8",
            timeout=SECONDS,
            dimensions=(60, 200),
        )
        self.child.expect_exact("(gdb) ")
        self.run(f"target remote {where}")

    def run(self, line: str) -> str:
        self.child.sendline(line)
        self.child.expect_exact("(gdb) ")
        assert self.child.before is not None
        return self.child.before.replace("\r", "")

    @property
    def pc(self) -> int:
        found = re.search(r"PC ([0-9a-f]+)", self.run(r'printf "PC %lx\n", $pc'))
        assert found is not None
        return int(found[1], 16)


@needs_gdb
def test_a_real_gdb_works_through_the_bridge(tmp_path: Path) -> None:
    """Break, continue, step, backtrace, finish; what the shell does is seen by gdb and back."""
    with shell(tmp_path) as ours:
        gdb = Gdb(ours.socket)
        assert gdb.pc == va(SYSCALL)
        # Out of a function without a value: gdb 13 ends itself in `finish` on some of Rust's.
        assert "Breakpoint 1 at" in gdb.run(f"break {SYSCALL}")
        assert f"Breakpoint 1, {SYSCALL}" in gdb.run("continue")
        assert re.search(r"#0 .*handlers::syscall.*\n#1 .*signal handler called", gdb.run("bt"))
        assert "Run till exit" in gdb.run("finish")
        assert va("syscall_entry") < gdb.pc < va("syscall_entry") + 0x60
        gdb.run("step")
        assert gdb.pc == va("interrupt_return")
        # Ours stands where gdb left it, and its commands answer gdb's `monitor`.
        ours.run(f"print rip == {gdb.pc:#x}", r"\r\ntrue")
        assert "master" in gdb.run("monitor roots")
        # A run of the shell's: gdb's next continue shows that stop, and runs nothing.
        gdb.run("delete")
        ours.run("tbreak syscall_entry", "breakpoint at syscall_entry")
        ours.run("continue", "breakpoint at syscall_entry ")
        gdb.run("continue")
        assert gdb.pc == va("syscall_entry")
        gdb.run("detach")
        ours.child.expect("gdb has left the bridge")
        ours.run("break", "no points")
        ours.leave()


@needs_gdb
def test_a_real_gdb_goes_backwards_in_a_recording(tmp_path: Path) -> None:
    """To a breakpoint, by instructions, by lines, to where the recording begins and on to its
    end."""
    made = agent("record", "--lab", "kernel-stack-unmapped", "-o", str(tmp_path / "run"))
    assert made.code == 1, made.err
    with shell(tmp_path, "--replay", str(tmp_path / "run")) as ours:
        gdb = Gdb(ours.socket)
        end = gdb.pc
        gdb.run("break syscall_entry")
        assert "Breakpoint 1, " in gdb.run("reverse-continue")
        entry = gdb.pc
        assert entry == va("syscall_entry")
        gdb.run("stepi 3")
        on = gdb.pc
        gdb.run("reverse-stepi")
        assert entry < gdb.pc < on
        gdb.run("delete")
        gdb.run("tbreak kernel::syscall::dispatch")
        gdb.run("continue")
        line = gdb.run("frame")
        gdb.run("next")
        assert gdb.run("frame") != line
        gdb.run("reverse-next")
        assert gdb.run("frame") == line
        assert "No more reverse-execution history" in gdb.run("continue")
        assert gdb.pc == end
        assert "No more reverse-execution history" in gdb.run("reverse-continue")
        ours.run("goto end", r"#0")
        ours.leave()


@needs_gdb
def test_a_gdb_of_ours_is_asked_and_replaced_when_it_has_ended(tmp_path: Path) -> None:
    """Values and refusals by token; after gdb's end (it has defects of its own) the next question
    starts another one."""
    with shell(tmp_path) as ours:
        assert int(ours.run("gdb $rip", r"(0x[0-9a-f]+) <")[1], 16) == va(SYSCALL)
        ours.run("gdb nosuch_name", "gdb: No symbol")
        ours.run("gdb !bt", r"#0 +kernel::interrupts::handlers::syscall")
        ours.run("gdb !kill", r"\) ")
        ours.run("gdb !quit", "gdb has ended")
        ours.run("gdb $rip + 1", r"0x[0-9a-f]+")
        ours.leave()


@needs_gdb
def test_ctrl_c_in_either_stops_both(tmp_path: Path) -> None:
    with shell(tmp_path) as ours:
        gdb = Gdb(ours.socket)
        gdb.child.sendline("continue")
        gdb.child.expect("Continuing")
        ours.child.expect("COMPLETE|ENOSYS OK")  # the guest runs
        ours.run("walk 0x8000010000", "guest is running")
        gdb.child.sendintr()
        gdb.child.expect("SIGINT")
        gdb.child.expect_exact("(gdb) ")
        ours.run("print cs & 7 < 4", r"\r\ntrue")
        gdb.child.sendline("continue")
        gdb.child.expect("Continuing")
        gdb.child.close(force=True)  # gdb is killed: its run ends with it
        ours.child.expect("gdb has left the bridge")
        ours.run("print cs & 7 < 4", r"\r\ntrue")
        ours.leave()


@needs_gdb
def test_breakpoints_of_a_killed_gdb_are_gone(tmp_path: Path) -> None:
    with shell(tmp_path) as ours:
        gdb = Gdb(ours.socket)
        gdb.run("break timer_interrupt_entry")
        gdb.run("continue")
        gdb.child.close(force=True)
        ours.child.expect("gdb has left the bridge")
        ours.run("wait nosuchtext 1", "deadline|no such|did not come|after")
        assert "timer_interrupt_entry" not in ours.run("print rip", r"0x[0-9a-f]+[^\r]*")[0]
        again = Gdb(ours.socket)
        assert again.pc
        again.child.close(force=True)
        ours.leave()


def _packet(text: bytes) -> bytes:
    return b"$%b#%02x" % (text, sum(text) & 0xFF)


HOSTILE = {
    "noise": os.urandom(1 << 14) * 8,
    "no packet": b"GET / HTTP/1.1\r\n\r\n" * 8192,
    "a packet without an end": b"$" + b"m" * (1 << 20),
    "wrong checksums": b"$g#00" * 64,
    "unknown packets": b"".join(_packet(b"q%d" % n) for n in range(64)),
    "odd numbers": b"".join(
        _packet(p)
        for p in (
            b"m", b"mzz,4", b"m0,ffffffffffffffff", b"mffffffffffffffff,10", b"Z9,0,0", b"Z0,,",
            b"Hgzz", b"T99", b"vCont;", b"vCont;x", b"qRcmd,zz", b"qXfer:features:read:../x:0,9",
            b"p" + b"f" * 300, b"qThreadExtraInfo,zz",
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "never reads"])
def test_a_client_that_means_no_good_harms_nobody(tmp_path: Path, reads: bool) -> None:
    """Noise, broken packets, answers that nobody takes: the shell goes on, the guest too, and the
    next client is served."""
    with shell(tmp_path) as ours:
        for name, data in HOSTILE.items():
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(ours.socket)
                client.settimeout(0.5)
                try:
                    client.sendall(data)
                    while reads and client.recv(1 << 16):
                        pass
                except OSError:
                    pass
            ours.run("print cs & 7 < 4", r"\r\ntrue"), name
        with socket.socket(socket.AF_UNIX) as flood:
            flood.connect(ours.socket)
            flood.settimeout(0.2)
            try:
                while True:  # more answers than its buffer holds
                    flood.sendall(_packet(b"g") * 64)
            except OSError:
                ours.run("print cs & 7 < 4", r"\r\ntrue")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(ours.socket)
            client.sendall(_packet(b"?"))
            answer = b""
            while b"$T" not in answer:
                piece = client.recv(4096)
                assert piece
                answer += piece
        ours.leave()
