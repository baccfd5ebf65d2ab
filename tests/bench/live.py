"""Figures that need a running guest: attach, transports, the run, a benign fault."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.lab import elf
from breenix_gdbagent.link.gdbstub import GdbStub
from breenix_gdbagent.live import attach, launch
from breenix_gdbagent.memory.ramfile import RamFile
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.x86.roots import scan_roots
from tests.bench.bare import bare_attach, bare_stub
from tests.bench.harness import (
    AS_GDB,
    Pairs,
    Row,
    absent,
    bounded,
    cpu,
    judged,
    pairs,
    process_cpu,
    spent,
    wall,
)  # fmt: skip
from tests.gdb import gdb_command

BASE = 0x80_0000_0000
"""Where the lab guest runs (fixtures/labguest/src/boot.s)."""


@dataclass(frozen=True)
class Rig:
    """A QEMU that we did not start by the agent: its sockets and RAM file."""

    gdb: str
    qmp: str
    ram: Path
    pid: int


@contextmanager
def rig(
    memory: str = "512M", scenario: str = "clean", marker: bytes = b"LAB COMPLETE"
) -> Iterator[Rig]:
    """The lab guest, idle after its work (or behind another `marker`), as a user would have
    booted it."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        ram = place / "ram"
        command = [
            "qemu-system-x86_64", "-machine", "pc,memory-backend=ram", "-m", memory, "-object",
            f"memory-backend-file,id=ram,size={memory},mem-path={ram},share=on", "-display", "none",
            "-nodefaults", "-no-user-config", "-serial", f"unix:{place}/serial,server=on,wait=off",
            "-chardev", f"socket,path={place}/gdb,server=on,wait=off,id=g", "-gdb", "chardev:g",
            "-qmp", f"unix:{place}/qmp,server=on,wait=off", "-kernel", str(elf(False)),
            "-append", f"scenario={scenario} era=2025",
        ]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                _wait_for_marker(place / "serial", marker)
                yield Rig(f"unix:{place}/gdb", f"unix:{place}/qmp", ram, process.pid)
            finally:
                process.kill()


def _wait_for_marker(path: Path, marker: bytes) -> None:
    deadline = time.monotonic() + 30
    text = b""
    with socket.socket(socket.AF_UNIX) as line:
        while line.connect_ex(str(path)) != 0:
            if time.monotonic() > deadline:
                raise TimeoutError("QEMU opened no serial socket")
        line.settimeout(30)
        while marker not in text:
            text += line.recv(65536)


def agent(*arguments: str) -> tuple[str, ...]:
    """The installed command, as its user starts it."""
    script = Path(sys.executable).with_name("breenix-gdbagent")
    if script.is_file():
        return (str(script), *arguments)
    return (sys.executable, "-m", "breenix_gdbagent", *arguments)


def rows() -> Iterator[Row]:
    """All figures of this file."""
    with rig() as there:
        yield from _attach(there)
        yield from _transports(there)
        yield from _scan(there)
    yield _memory()
    yield _benign()
    yield from _overhead()


def _attach(there: Rig) -> Iterator[Row]:
    name = "first answer, from process start"
    if shutil.which("gdb"):
        ours = agent("pt", "walk", "0xffffc90000001000", "--gdb", there.gdb, "--json")
        theirs = gdb_command(
            "-batch", "-ex", f"target remote {there.gdb[5:]}", "-ex",
            "info registers rip cr3", "-ex", "x/1gx $rsp", "-ex", "disconnect",
        )  # fmt: skip
        both = pairs(process_cpu(*ours), process_cpu(*theirs))
        yield judged(name, both, "gdb -batch", "ms", ">=", AS_GDB)
    else:
        yield absent(name, "gdb -batch", "ms", ">=", AS_GDB)

    def once() -> None:
        with attach(there.gdb, there.qmp, there.ram) as vm:
            vm.stop(StopReason("attached"))

    both = pairs(wall(once), wall(lambda: bare_attach(there.gdb, there.qmp)))
    yield judged("attach and make a stop", both, "bare client, two lines", "ms", "<=", 12.0)


def _transports(there: Rig) -> Iterator[Row]:
    with attach(there.gdb, there.qmp, there.ram) as vm:
        stop = vm.stop(StopReason("attached"))
        ram = stop.memory.ram
        assert ram is not None
    file = RamFile(there.ram, ram)
    pages = range(0x200000, 0x600000, 4096)

    def by_file() -> None:
        for pa in pages:
            file.table(PhysAddr(pa))

    with there.ram.open("rb") as raw:

        def by_pread() -> None:
            for pa in pages:
                os.pread(raw.fileno(), 4096, pa)

        both = pairs(cpu(by_file), cpu(by_pread))
    yield judged(f"{len(pages)} tables by RAM file", both, "os.pread", "ms", ">=", 2.0)
    some = [(pa, 4096) for pa in pages[:128]]
    halves = [b"m%x,800" % pa for pa in range(pages[0], pages[128], 2048)]

    def ours() -> float:
        with GdbStub.connect(there.gdb) as stub:
            stub.read_physical(some)  # it finds out here what this stub can do
            return wall(lambda: stub.read_physical(some))()

    def floor() -> float:
        with bare_stub(there.gdb) as stub:
            stub.ask(b"Qqemu.PhyMemMode:1")
            try:
                stub.ask_all(halves)
                return wall(lambda: stub.ask_all(halves))()
            finally:
                stub.ask(b"Qqemu.PhyMemMode:0")

    yield judged("RSP physical reads", pairs(ours, floor), "bare client", "ms", "<=", 2.0)


def _scan(there: Rig) -> Iterator[Row]:
    with attach(there.gdb, there.qmp, there.ram) as vm:
        memory = vm.stop(StopReason("attached")).memory
        root = Kernel(vm.stop(StopReason("attached"))).reference_root
        assert root is not None

        def copy() -> None:
            for _, piece in memory.filled():
                piece.tobytes()

        both = pairs(cpu(lambda: scan_roots(memory, root)), cpu(copy))
    yield judged("roots of 512 MiB", both, "one copy of what is in use", "ms", "<=", 4.0)


def _memory() -> Row:
    """Resident set of the agent while it examines a guest with 512 MiB."""
    with rig() as there:
        code = (
            "import sys; from breenix_gdbagent.commands import run; "
            f"run(['audit', '--gdb', {there.gdb!r}, '--qmp', {there.qmp!r}, '--ram', "
            f"{str(there.ram)!r}, '--json']); "
            "print(open('/proc/self/status').read(), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
    anonymous = next(
        (int(w.split()[1]) for w in done.stderr.splitlines() if w.startswith("RssAnon")), 0
    )
    return bounded("agent's own memory, 512 MiB guest", anonymous / 1024, 80.0)


def _benign() -> Row:
    """A copy-on-write fault, recognised, against a client that asks another stopped guest for its
    registers and one word of each level of its tables."""
    from breenix_gdbagent import lab
    from breenix_gdbagent.debugger.debugger import Debugger
    from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
    from breenix_gdbagent.symbols import Image

    scenario = lab.scenario("copy-on-write")
    found: list[Pairs] = []

    class Timed(GuardedRun):
        def _passes_fault(self, fault, points):  # type: ignore[no-untyped-def]
            passed = super()._passes_fault(fault, points)
            if passed:
                again = super()._passes_fault
                found.append(pairs(wall(lambda: again(fault, points)), wall(asked), 5))
            return passed

    with (
        rig() as there,
        bare_stub(there.gdb) as stub,
        launch("lab", kernel=elf(False), append=scenario.append, cpu=scenario.cpu) as vm,
    ):

        def asked() -> None:
            stub.ask(b"g")
            for level in range(4):
                stub.ask(b"m%x,8" % (0x200000 + level * 0x1000))

        run = Timed(Debugger(vm, Image.open(elf(False))), Orders(timeout=60))
        run.start()
        run.go()
    both = sorted(found, key=lambda one: one.ratio)[len(found) // 2]
    return judged("benign fault recognised", both, "bare stub, 5 questions", "ms", "<=", 6.0)


ROUNDS = 430
"""Of the lab guest's processes: some 10 s of a quiet machine."""
LONG_PAIRS = 5


def _overhead() -> Iterator[Row]:
    """A fault-free workload of 10 s under `ci` against the same QEMU bare: the CPU time of QEMU
    and of us, which what else the machine does leaves as it is. A guest that is stopped and let go
    shows in it too: QEMU translates its code again."""
    from breenix_gdbagent.debugger.debugger import Debugger
    from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
    from breenix_gdbagent.symbols import Image

    append = f"scenario=clean era=2025 rounds={ROUNDS}"

    def guarded() -> None:
        with launch("lab", kernel=elf(False), append=append) as vm:
            run = GuardedRun(
                Debugger(vm, Image.open(elf(False))), Orders(until="LAB COMPLETE", timeout=300)
            )
            run.start()
            run.go()

    def bare() -> None:
        with launch("lab", kernel=elf(False), append=append) as vm:
            vm.run_until(["LAB COMPLETE"], 300)

    both = pairs(spent(guarded), spent(bare), LONG_PAIRS, warm=False)
    yield judged("fault-free run of 10 s under ci, CPU time", both, "bare QEMU", "ms", "<=", 1.03)
