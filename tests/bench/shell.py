"""Figures of the shell, in a pty: how long until a prompt, and until the view of a stop."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect

from tests.bench.harness import Row, within
from tests.bench.live import agent

ROUNDS = 15
WARM = 3


def rows() -> Iterator[Row]:
    """All figures of this file."""
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        yield _startup(room)
        yield from _views(room)


def _startup(room: Path) -> Row:
    """Process start to a prompt that takes keys, on a snapshot."""
    saved = room / "stop"
    subprocess.run(
        agent("snapshot", "--lab", "guard-page", "-o", str(saved)), capture_output=True, check=False
    )
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        with _shell(room, "--snapshot", str(saved)) as child:
            child.expect(r"\(kernel::interrupts::page_fault_handler in")
            times.append(time.perf_counter() - begun)
    return within("shell: to a prompt on a snapshot", _median(times), 200.0, "ms")


def _views(room: Path) -> Iterator[Row]:
    """Enter to the prompt behind the view: of an instruction stepped, and of a breakpoint."""
    with _shell(room, "--lab", "marker-missing") as child:
        child.expect(r"\(not started\)")
        for line in ("break syscall_entry", "continue", "stepi", "continue"):
            _command(child, line)
        for line, before in (("stepi", ""), ("continue", "stepi")):
            times = []
            for _ in range(ROUNDS):
                if before:
                    _command(child, before)
                begun = time.perf_counter()
                _command(child, line)
                times.append(time.perf_counter() - begun)
            yield within(f"shell: {line} to the view of the stop", _median(times), 30.0, "ms")


def _command(child: pexpect.spawn, line: str) -> None:
    """One line, and the prompt behind all that it brings."""
    child.send(f"{line}\r")
    if line in ("stepi", "continue"):
        child.expect("stack at 0x")
        child.expect(r"\n\r?(\x1b\[[0-9;?]*\w)*\([a-z_]+(\+0x\w+)? in ")
    else:
        child.expect(r"at \d+ addresses")


@contextmanager
def _shell(room: Path, *arguments: str) -> Iterator[pexpect.spawn]:
    child = pexpect.spawn(
        sys.executable,
        ["-m", "breenix_gdbagent", "shell", *arguments],
        env={"HOME": str(room), "PATH": os.environ["PATH"], "TERM": "xterm", "LANG": "C.UTF-8"},
        dimensions=(60, 120),
        encoding="utf-8",
    )
    child.delaybeforesend = None
    try:
        yield child
    finally:
        child.close(force=True)


def _median(seconds: list[float]) -> float:
    """Milliseconds, the first rounds left out."""
    return statistics.median(seconds[WARM:]) * 1000
