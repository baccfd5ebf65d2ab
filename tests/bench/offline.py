"""Figures on one saved stop: whole spaces, the audit, explanations, names, snapshots."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from breenix_gdbagent import lab, targets
from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.faults import check as explain
from breenix_gdbagent.checks.run import RunFacts
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
from breenix_gdbagent.kernel import trace
from breenix_gdbagent.kernel.processes import read_processes
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.lab import elf
from breenix_gdbagent.live import LiveVm, launch
from breenix_gdbagent.report.document import History, RunRecord
from breenix_gdbagent.report.html import render
from breenix_gdbagent.report.text import render as render_text
from breenix_gdbagent.run_report import build, save
from breenix_gdbagent.snapshot.saving import save_snapshot
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.views.stop_detail import stop_detail
from breenix_gdbagent.x86.mapped_space import Spaces
from breenix_gdbagent.x86.paging import Tables
from tests.bench.cfloor import NAME as FLOOR
from tests.bench.cfloor import c_floor, floor_ms
from tests.bench.harness import (
    AS_GDB,
    PAIRS,
    PYTHON,
    Pairs,
    Row,
    absent,
    bounded,
    cpu,
    judged,
    pairs,
    process_cpu,
    python_start,
    wall,
)  # fmt: skip
from tests.gdb import gdb_command

NAME = "one space of 14 processes, merged ranges"
DUMP = "dump-guest-memory"


def rows() -> Iterator[Row]:
    """All figures of this file."""
    with tempfile.TemporaryDirectory() as name:
        scenario = lab.scenario("many")
        with launch("lab", kernel=elf(False), append=scenario.append) as vm:
            run = GuardedRun(Debugger(vm, Image.open(elf(False))), Orders(timeout=30))
            run.start()
            ended = run.go()
            stop = ended.kernel.stop
            yield from _spaces(vm, stop)
            yield from _audit(stop)
            yield from _snapshots(vm, stop, Path(name))
            yield from _faces(stop)
        yield from _all_of_ram(Path(name))
        yield from _explanation()
        yield from _names(Path(name))


def _spaces(vm: LiveVm, stop: Stop) -> Iterator[Row]:
    kernel = Kernel(stop)
    roots = [s.root for s in kernel.audited]

    def walk(number: int) -> None:
        spaces = Spaces(Tables(stop.memory), 4, True)
        for root in roots[:number]:
            spaces.space(root)

    ram = vm._holds.ram_file
    assert ram is not None
    with c_floor() as program:
        for name, number in ((NAME, 1), (f"all {len(roots)} spaces", len(roots))):
            if program is None:
                yield absent(name, FLOOR, "ms", "<=", 100.0)
                continue
            theirs = floor_ms(program, ram, roots[:number], 200)
            both = pairs(cpu(lambda n=number: walk(n)), theirs)
            yield judged(name, both, FLOOR, "ms", "<=", 100.0)
    both = pairs(cpu(lambda: walk(9)), cpu(lambda: walk(1)))
    yield judged("nine spaces of one stop", both, "one space", "ms", "<=", 3.0)


def _audit(stop: Stop) -> Iterator[Row]:
    def whole() -> None:
        kernel = Kernel(stop)
        build({}, RunRecord(), examine(stop, kernel), History())

    both = pairs(cpu(whole), python_start)
    yield judged("from stop to complete report", both, PYTHON, "ms", "<=", 4.0)
    kernel = Kernel(stop)
    count = len(kernel.structures.processes.processes)
    types = kernel.structures.values
    both = pairs(cpu(lambda: read_processes(types)), python_start)
    yield judged(f"warm list of {count} processes", both, PYTHON, "ms", "<=", 0.25)


def _snapshots(vm: LiveVm, stop: Stop, place: Path) -> Iterator[Row]:
    """Written beside QEMU's own dump of the same guest; then reported, beside gdb."""
    kernel = Kernel(stop)
    report = build({"kind": "lab"}, RunRecord(), examine(stop, kernel), History())
    for memory, target in (("tables", 2.0), ("kernel", 1.0)):
        file = place / memory

        def write(memory: str = memory, file: Path = file) -> None:
            save(file, kernel, memory, {}, RunRecord(), RunFacts(), History(), {}, report)

        both = pairs(wall(write), wall(lambda: _dump_guest(vm, place / "dump")))
        yield judged(f"snapshot --memory {memory}", both, DUMP, "ms", ">=", target)
    size = (place / "tables").stat().st_size / (1 << 20)
    yield bounded("size of a tables snapshot", size, 1.0)
    name = "report of a tables snapshot, from process start"
    if shutil.which("gdb") is None:
        yield absent(name, "gdb -batch", "ms", ">=", AS_GDB)
        return
    tables = str(place / "tables")
    both = pairs(
        process_cpu(sys.executable, "-m", "breenix_gdbagent", "report", tables),
        process_cpu(*gdb_command("-batch", "-ex", "info registers", str(elf(False)), tables)),
    )
    yield judged(name, both, "gdb -batch info registers", "ms", ">=", AS_GDB)


def _dump_guest(vm: LiveVm, file: Path) -> None:
    """All of RAM, by QEMU itself."""
    qmp = vm._holds.qmp
    assert qmp is not None
    qmp.execute("dump-guest-memory", {"paging": False, "protocol": f"file:{file}"}, 60)


def _all_of_ram(place: Path) -> Iterator[Row]:
    """512 MiB of one stopped guest, by us and by QEMU."""
    with targets.lab("clean", memory="512M").vm as vm:
        stop = vm.run_until([lab.MARKER], 60)
        both = pairs(
            wall(lambda: save_snapshot(stop, place / "all", extra={})),
            wall(lambda: _dump_guest(vm, place / "dump")),
            5,
        )
    yield judged("snapshot --memory all, 512 MiB", both, DUMP, "ms", ">=", 1.0)


def _faces(stop: Stop) -> Iterator[Row]:
    kernel = Kernel(stop)
    document = build({}, RunRecord(), examine(stop, kernel), History())
    both = pairs(cpu(lambda: render_text(document)), python_start)
    yield judged("terminal face", both, PYTHON, "ms", "<=", 0.2)
    page = render(document, stop_detail(kernel))
    yield bounded("HTML report", len(page.encode()) / (1 << 20), 2.0)


FAULTS = ("page-fault.", "double-fault", "triple-fault", "general-prot", "invalid-op", "divide")


def _explanation() -> Iterator[Row]:
    """The fault of every scenario that has one, explained anew from its stop: the slowest."""
    found: list[Pairs] = []
    for scenario in lab.scenarios().values():
        if not any(code.startswith(FAULTS) for code in scenario.codes):
            continue
        with launch("lab", kernel=elf(False), append=scenario.append, cpu=scenario.cpu) as vm:
            run = GuardedRun(Debugger(vm, Image.open(elf(False))), Orders(timeout=60))
            run.start()
            stop = run.go().kernel.stop
            if list(explain(Kernel(stop))):
                found.append(pairs(cpu(lambda s=stop: list(explain(Kernel(s)))), python_start, 5))
    slowest = max(found, key=lambda one: one.ratio)
    name = f"explanation, slowest of {len(found)} scenarios"
    yield judged(name, slowest, PYTHON, "ms", "<=", 2.0)


def _names(place: Path) -> Iterator[Row]:
    """A long backtrace, from the ELF's own tables: of one that is open, and from process start."""
    with launch("lab", kernel=elf(False), append=lab.scenario("guard-page").append) as vm:
        run = GuardedRun(Debugger(vm, Image.open(elf(False))), Orders(timeout=60))
        run.start()
        stop = run.go().kernel.stop
        file = place / "bt"
        kernel = Kernel(stop)
        examine(stop, kernel)
        save(file, kernel, "kernel", {}, RunRecord(), RunFacts(), History(), {})
        warm, cold = "backtrace of 256 frames, warm", "first bt, from process start"
        if shutil.which("gdb") is None:
            yield absent(warm, "gdb, bt", "ms", "<=", 2.0)
            yield absent(cold, "gdb -batch", "ms", ">=", AS_GDB)
            return
        assert stop.image is not None
        fresh = stop._replace(image=Image.open(elf(False)).loaded(stop.image.bias))
        theirs = iter(_gdb_backtraces(file))
        both = pairs(cpu(lambda: trace.of_cpu(Kernel(fresh), fresh.cpu)), lambda: next(theirs))
        yield judged(warm, both, "gdb, bt", "ms", "<=", 2.0)
    both = pairs(
        process_cpu(sys.executable, "-m", "breenix_gdbagent", "bt", "--snapshot", str(file)),
        process_cpu(*gdb_command("-batch", "-ex", "bt", str(elf(False)), str(file))),
    )
    yield judged(cold, both, "gdb -batch bt", "ms", ">=", AS_GDB)


def _gdb_backtraces(file: Path) -> list[float]:
    """Milliseconds of CPU time of one gdb for the same frames, its symbols read, time after time
    with no frame remembered."""
    timed = (
        "python import time; gdb.execute('maintenance flush register-cache', to_string=True); "
        "t = time.process_time(); gdb.execute('bt 256', to_string=True); "
        "print('TOOK', (time.process_time() - t) * 1000)"
    )
    done = subprocess.run(
        gdb_command("-batch", str(elf(False)), str(file), *(["-ex", timed] * (PAIRS + 1))),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line[:4] == "TOOK"]
