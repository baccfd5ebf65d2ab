"""Figures that need a running guest: attach, transports, the run, a benign fault."""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.lab import elf
from breenix_gdbagent.link.gdbstub import GdbStub
from breenix_gdbagent.live import attach, launch
from breenix_gdbagent.memory.ramfile import RamFile
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.x86.roots import scan_roots
from tests.bench.harness import Row, absent, measured, median_ms, within
from tests.gdb import gdb_command

PAIRS = 5


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


def _start_ms(*arguments: str) -> float:
    """Milliseconds of a whole process, median."""

    def once() -> None:
        subprocess.run(arguments, capture_output=True, check=False, timeout=60)

    return median_ms(once, rounds=PAIRS)


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
    ours = _start_ms(*agent("pt", "walk", "0xffffc90000001000", "--gdb", there.gdb, "--json"))
    name = "first answer, from process start"
    if shutil.which("gdb"):
        theirs = _start_ms(
            *gdb_command("-batch", "-ex", f"target remote {there.gdb[5:]}", "-ex",
                         "info registers rip cr3", "-ex", "x/1gx $rsp", "-ex", "disconnect"),
        )  # fmt: skip
        yield measured(name, ours, "gdb -batch", theirs, "ms", ">=", 1.0)
    else:
        yield absent(name, "gdb -batch", "ms", ">=", 1.0)

    def once() -> None:
        with attach(there.gdb, there.qmp, there.ram) as vm:
            vm.stop(StopReason("attached"))

    yield within("attach and make a stop", median_ms(once), 150.0, "ms")


def _transports(there: Rig) -> Iterator[Row]:
    with attach(there.gdb, there.qmp, there.ram) as vm:
        stop = vm.stop(StopReason("attached"))
        ram = stop.memory.ram
        assert ram is not None
    file = RamFile(there.ram, ram)
    pages = range(0x200000, 0x600000, 4096)

    def by_file() -> None:
        for pa in pages:
            file.table(pa)  # type: ignore[arg-type]

    yield within("4 KiB by RAM file", median_ms(by_file) * 1000 / len(pages), 5.0, "us")
    some = [(pa, 4096) for pa in pages[:128]]
    with GdbStub.connect(there.gdb) as stub:
        pipelined = median_ms(lambda: stub.read_physical(some))

        def one_by_one() -> None:
            for pa, length in some:
                for half in range(0, length, 2048):
                    stub.ask(b"m%x,800" % (pa + half))

        with stub.physical():
            single = median_ms(one_by_one)
    yield measured("RSP physical reads", pipelined, "one at a time", single, "ms", ">=", 5.0)


def _scan(there: Rig) -> Iterator[Row]:
    with attach(there.gdb, there.qmp, there.ram) as vm:
        stop = vm.stop(StopReason("attached"))
        kernel = Kernel(stop)
        root = kernel.reference_root
        assert root is not None
        memory = stop.memory
        yield within("roots of 512 MiB", median_ms(lambda: scan_roots(memory, root)), 10.0, "ms")


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
    return within("agent's own memory, 512 MiB guest", anonymous / 1024, 80.0, "MiB")


def _benign() -> Row:
    """A copy-on-write fault, recognised and passed."""
    from breenix_gdbagent import lab
    from breenix_gdbagent.debugger.debugger import Debugger
    from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
    from breenix_gdbagent.symbols import Image

    scenario = lab.scenario("copy-on-write")
    times: list[float] = []

    class Timed(GuardedRun):
        def _passes_fault(self, fault, points):  # type: ignore[no-untyped-def]
            passed = super()._passes_fault(fault, points)
            for _ in range(PAIRS if passed else 0):
                start = time.perf_counter()
                super()._passes_fault(fault, points)
                times.append(time.perf_counter() - start)
            return passed

    with launch("lab", kernel=elf(False), append=scenario.append, cpu=scenario.cpu) as vm:
        run = Timed(Debugger(vm, Image.open(elf(False))), Orders(timeout=20))
        run.start()
        run.go()
    return within("benign fault recognised", statistics.median(times) * 1000, 1.0, "ms")


ROUNDS = 430
"""Of the lab guest's processes: some 10 s of a quiet machine."""
LONG_PAIRS = 3


def _overhead() -> Iterator[Row]:
    """A fault-free workload of 10 s under `ci` against the same QEMU bare, interleaved pairs."""
    from breenix_gdbagent.debugger.debugger import Debugger
    from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
    from breenix_gdbagent.symbols import Image

    ours, theirs = [], []
    append = f"scenario=clean era=2025 rounds={ROUNDS}"
    for _ in range(LONG_PAIRS):
        theirs.append(_bare(append))
        with launch("lab", kernel=elf(False), append=append) as vm:
            debugger = Debugger(vm, Image.open(elf(False)))
            run = GuardedRun(debugger, Orders(until="LAB COMPLETE", timeout=120))
            run.start()
            ours.append(run.go().record.seconds)
    yield measured(
        "fault-free run of 10 s under ci",
        statistics.median(ours),
        "bare QEMU",
        statistics.median(theirs),
        "s",
        "<=",
        1.03,
    )


def _bare(append: str) -> float:
    with launch("lab", kernel=elf(False), append=append) as vm:
        return vm.run_until(["LAB COMPLETE"], 120).seconds
