"""Figures of the shell, in a pty: how long until a prompt, and until the view of a stop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect

from breenix_gdbagent.lab import elf
from tests.bench.harness import Row, absent, judged, pairs
from tests.bench.live import BASE, Rig, agent, rig
from tests.gdb import gdb_command

MOST = 8.0
BARE = "from prompt_toolkit import PromptSession as P; P().prompt('(ready) ')"
VIEW = """
python
def view():
    for line in ("info registers", "x/6i $pc", "x/8gx $rsp", "bt 8"):
        try:
            gdb.execute(line)
        except gdb.error as error:
            print(error)
    print("VIEW-DONE")
end
define hook-stop
python view()
end
"""
PROMPT = r"\n\r?(\x1b\[[0-9;?]*\w)*\([a-z_]+(\+0x\w+)? in "


def rows() -> Iterator[Row]:
    """All figures of this file."""
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        yield _startup(room)
        yield from _views(room)


def _startup(room: Path) -> Row:
    """Process start to a prompt that takes keys, on a snapshot; against a prompt of the same
    library with nothing behind it."""
    saved = room / "stop"
    subprocess.run(
        agent("snapshot", "--lab", "guard-page", "-o", str(saved)), capture_output=True, check=False
    )

    def until(expected: str, *arguments: str) -> float:
        begun = time.perf_counter()
        with _terminal(room, sys.executable, *arguments) as child:
            child.expect(expected)
            return (time.perf_counter() - begun) * 1000

    shell = ("-m", "breenix_gdbagent", "shell", "--snapshot", str(saved))
    both = pairs(
        lambda: until(r"\(kernel::interrupts::page_fault_handler in", *shell),
        lambda: until(r"\(ready\)", "-c", BARE),
    )
    return judged("shell: to a prompt on a snapshot", both, "a bare prompt", "ms", "<=", 2.0)


def _views(room: Path) -> Iterator[Row]:
    """Enter to the prompt behind the view: of an instruction stepped, and of a breakpoint; against
    a gdb that shows registers, code, stack and frames there."""
    names = {line: f"shell: {line} to the view of the stop" for line in ("stepi", "continue")}
    if shutil.which("gdb") is None:
        yield from (absent(name, "gdb", "ms", "<=", MOST) for name in names.values())
        return
    shell = (sys.executable, "-m", "breenix_gdbagent", "shell", "--lab", "marker-missing")
    with (
        _terminal(room, *shell) as ours,
        rig(scenario="marker-missing", marker=b"initialization complete") as there,
        _gdb(room, there) as theirs,
    ):
        ours.expect(r"\(not started\)")
        for line in ("break syscall_entry", "continue", "stepi", "continue"):
            _command(ours, line)
        for line, name in names.items():
            both = pairs(
                lambda line=line: _view(ours, line, _command),
                lambda line=line: _view(theirs, line, _gdb_command),
            )
            yield judged(name, both, "gdb, as much", "ms", "<=", MOST)


def _view(child: pexpect.spawn, line: str, command: Callable[[pexpect.spawn, str], None]) -> float:
    """Milliseconds of one line; a breakpoint is left by a step first."""
    if line == "continue":
        command(child, "stepi")
    begun = time.perf_counter()
    command(child, line)
    return (time.perf_counter() - begun) * 1000


@contextmanager
def _gdb(room: Path, there: Rig) -> Iterator[pexpect.spawn]:
    """A gdb at the same breakpoint of another guest, whose `stepi` and `continue` show a view."""
    script = room / "view.gdb"
    lines = (
        "set pagination off", "set width 0", "set style enabled off",
        f"symbol-file -o {BASE:#x} {elf(False)}", f"target remote {there.gdb[5:]}",
        "break syscall_entry", VIEW,
    )  # fmt: skip
    script.write_text("\n".join(lines))
    with _terminal(room, *gdb_command("-x", str(script))) as child:
        child.expect_exact("(gdb) ")
        yield child


def _gdb_command(child: pexpect.spawn, line: str) -> None:
    child.send(f"{line}\r")
    child.expect_exact("VIEW-DONE\r\n")
    child.expect_exact("(gdb) ")


def _command(child: pexpect.spawn, line: str) -> None:
    """One line, and the prompt behind all that it brings."""
    child.send(f"{line}\r")
    if line in ("stepi", "continue"):
        child.expect("stack at 0x")
        child.expect(PROMPT)
    else:
        child.expect(r"at \d+ addresses")


@contextmanager
def _terminal(room: Path, program: str, *arguments: str) -> Iterator[pexpect.spawn]:
    child = pexpect.spawn(
        program,
        list(arguments),
        env={"HOME": str(room), "PATH": os.environ["PATH"], "TERM": "xterm", "LANG": "C.UTF-8"},
        dimensions=(60, 120),
        encoding="utf-8",
    )
    child.delaybeforesend = None
    try:
        yield child
    finally:
        child.close(force=True)
