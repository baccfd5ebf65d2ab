"""What a hit of a checkpoint costs, ours and gdb's ``dprintf``, on one instruction of one guest."""

from __future__ import annotations

import os
import pty
import select
import shutil
import socket
import subprocess
import time

from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.user_breakpoints import checkpoint_of
from breenix_gdbagent.lab import elf
from breenix_gdbagent.live import attach
from breenix_gdbagent.symbols import Image
from tests.bench.harness import Row, absent, measured, within
from tests.bench.live import Rig, rig
from tests.gdb import gdb_command

SECONDS = 3.0
STARTING = 30.0
SETTLING = 0.5
BASE = 0x8000000000  # where the lab guest runs (fixtures/labguest/src/boot.s)
BUDGET = 600.0
TIMES_FASTER = 6.0
MOST = 2.0


def rows() -> list[Row]:
    """A kernel that spins for a lock with interrupts off comes to the same instruction at once;
    both print two registers there, gdb with the kernel's symbols, as its user has them."""
    name = "a checkpoint's hit, against gdb's dprintf"
    with rig(scenario="hang", marker=b"initialization complete") as here:
        place, ours = _ours(here)
        floor = _floor(here, place)
        found = [
            within("a checkpoint's hit", ours, BUDGET, "us"),
            measured("a checkpoint's hit", ours, "bare stop, step, go", floor, "us", "<=", MOST),
        ]
        if shutil.which("gdb") is None:
            return [*found, absent(name, "gdb", "us", ">=", TIMES_FASTER)]
        theirs = _theirs(here, place)
    return [*found, measured(name, ours, "gdb", theirs, "us", ">=", TIMES_FASTER)]


def _ours(here: Rig) -> tuple[int, float]:
    """(the instruction, microseconds a hit)."""
    image = Image.open(elf(False))
    lines: list[str] = []
    with attach(here.gdb, here.qmp, here.ram) as vm:
        debugger = Debugger(vm, image, lines.append)
        debugger.start()
        debugger.go((), SETTLING)
        place = debugger.vm.stop().cpu.rip
        text = f"{place:#x} rax, rcx"
        debugger.add(checkpoint_of(text, debugger.loaded, debugger.table.number()))
        start = time.perf_counter()
        debugger.go((), SECONDS)
        passed = time.perf_counter() - start
    return place, passed * 1e6 / len(lines)


def _floor(here: Rig, place: int) -> float:
    """What QEMU itself takes: stopped at a breakpoint, one instruction, and on, by a client that
    looks at nothing. Nobody who steps over a breakpoint can be faster."""
    with socket.socket(socket.AF_UNIX) as stub:
        stub.connect(here.gdb[5:])

        def ask(request: bytes) -> None:
            stub.sendall(b"$%b#%02x" % (request, sum(request) & 0xFF))
            answer = b""
            while answer[-3:-2] != b"#":
                answer += stub.recv(4096)

        ask(b"QStartNoAckMode")
        stub.sendall(b"+")
        ask(b"Z1,%x,1" % place)
        hits = 0
        start = time.perf_counter()
        while (passed := time.perf_counter() - start) < SECONDS:
            ask(b"vCont;c")
            ask(b"vCont;s:01")
            hits += 1
        ask(b"z1,%x,1" % place)
        ask(b"D")
    return passed * 1e6 / hits


def _theirs(here: Rig, place: int) -> float:
    """The same of a gdb that prints the same two registers there."""
    command = gdb_command(
        "-batch", "-ex", "set pagination off",
        "-ex", f"symbol-file -o {BASE:#x} {elf(False)}",
        "-ex", f"target remote {here.gdb[5:]}",
        "-ex", f'dprintf *{place:#x},"hit %lx %lx\\n",$rax,$rcx', "-ex", "continue",
    )  # fmt: skip
    # A terminal, so that gdb writes line by line.
    ours, its = pty.openpty()
    try:
        with subprocess.Popen(command, stdin=its, stdout=its, stderr=subprocess.DEVNULL) as gdb:
            try:
                _lines(ours, time.perf_counter() + STARTING, most=1)
                start = time.perf_counter()
                hits = _lines(ours, start + SECONDS)
                passed = time.perf_counter() - start
            finally:
                gdb.kill()
    finally:
        os.close(ours)
        os.close(its)
    return passed * 1e6 / hits


def _lines(terminal: int, until: float, most: int | None = None) -> int:
    """How many of dprintf's lines come until then."""
    hits = 0
    while (left := until - time.perf_counter()) > 0 and (most is None or hits < most):
        if select.select([terminal], [], [], left)[0]:
            hits += os.read(terminal, 1 << 16).count(b"hit ")
    return hits
