"""What a hit of a checkpoint costs, ours and gdb's ``dprintf``, on one instruction of one guest."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.user_breakpoints import checkpoint_of
from breenix_gdbagent.lab import elf
from breenix_gdbagent.live import attach
from breenix_gdbagent.symbols import Image
from tests.bench.bare import bare_stub
from tests.bench.harness import Row, absent, judged, pairs
from tests.bench.live import BASE, Rig, rig
from tests.gdb import gdb_command

SECONDS = 1.0
PAIRS = 5
SETTLING = 0.5
STARTING = 30.0
MOST_CPU = 3.0
MOST = 4.0


def rows() -> list[Row]:
    """A kernel that spins for a lock with interrupts off comes to the same instruction at once;
    both print two registers there, gdb with the kernel's symbols, as its user has them."""
    name = "a checkpoint's hit, CPU time"
    with rig(scenario="hang", marker=b"initialization complete") as here:
        place = _place(here)

        def ours() -> float:
            return _ours(here, place, time.perf_counter)

        bare = pairs(ours, lambda: _floor(here, place), PAIRS, warm=False)
        found = [judged("a checkpoint's hit", bare, "bare stop, step, go", "us", "<=", MOST)]
        if shutil.which("gdb") is None or not Path("/proc/self/stat").exists():
            return [*found, absent(name, "gdb, dprintf", "us", "<=", MOST_CPU)]
        both = pairs(
            lambda: _ours(here, place, time.process_time), lambda: _theirs(here, place), PAIRS,
            warm=False,
        )  # fmt: skip
    return [*found, judged(name, both, "gdb, dprintf", "us", "<=", MOST_CPU)]


def _place(here: Rig) -> int:
    """An instruction of the loop in which the guest spins, once it has come there."""
    with attach(here.gdb, here.qmp, here.ram) as vm:
        debugger = Debugger(vm, Image.open(elf(False)))
        debugger.start()
        debugger.go((), SETTLING)
        return debugger.vm.stop().cpu.rip


def _ours(here: Rig, place: int, clock: Callable[[], float]) -> float:
    """Microseconds a hit, which has a line of its own as each of dprintf's has."""
    image = Image.open(elf(False))
    lines: list[str] = []
    with attach(here.gdb, here.qmp, here.ram) as vm:
        debugger = Debugger(vm, image, lines.append)
        debugger.start()
        text = f"{place:#x} rax, rcx"
        point = checkpoint_of(text, debugger.loaded, debugger.table.number())
        point.compact = False
        debugger.add(point)
        start = clock()
        debugger.go((), SECONDS)
        passed = clock() - start
    assert len(lines) >= point.hits > 1
    return passed * 1e6 / point.hits


def _floor(here: Rig, place: int) -> float:
    """What QEMU itself takes: stopped at a breakpoint, one instruction, and on, by a client that
    looks at nothing. Nobody who steps over a breakpoint can be faster."""
    with bare_stub(here.gdb) as stub:
        stub.ask(b"Z1,%x,1" % place)
        hits = 0
        start = time.perf_counter()
        while (passed := time.perf_counter() - start) < SECONDS:
            stub.ask(b"vCont;c")
            stub.ask(b"vCont;s:01")
            hits += 1
        stub.ask(b"z1,%x,1" % place)
    return passed * 1e6 / hits


def _theirs(here: Rig, place: int) -> float:
    """The CPU time of a gdb for the same: it prints the same two registers there."""
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
                start = _cpu_seconds(gdb.pid)
                hits = _lines(ours, time.perf_counter() + SECONDS)
                passed = _cpu_seconds(gdb.pid) - start
            finally:
                gdb.kill()
    finally:
        os.close(ours)
        os.close(its)
    return passed * 1e6 / hits


def _cpu_seconds(pid: int) -> float:
    """Of another process: utime and stime, fields 14 and 15 of its stat (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _lines(terminal: int, until: float, most: int | None = None) -> int:
    """How many of dprintf's lines come until then."""
    hits = 0
    while (left := until - time.perf_counter()) > 0 and (most is None or hits < most):
        if select.select([terminal], [], [], left)[0]:
            hits += os.read(terminal, 1 << 16).count(b"hit ")
    return hits
