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
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.lab import elf
from breenix_gdbagent.live import launch
from breenix_gdbagent.report.document import History, RunRecord, build
from breenix_gdbagent.report.html import render
from breenix_gdbagent.report.text import render as render_text
from breenix_gdbagent.run_report import save
from breenix_gdbagent.snapshot.saving import save_snapshot
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.x86.mapped_space import Spaces
from breenix_gdbagent.x86.paging import Tables
from tests.bench.harness import Row, absent, measured, median_ms, within
from tests.gdb import gdb_command


def rows() -> Iterator[Row]:
    """All figures of this file."""
    with tempfile.TemporaryDirectory() as name:
        scenario = lab.scenario("many")
        with launch("lab", kernel=elf(False), append=scenario.append) as vm:
            run = GuardedRun(Debugger(vm, Image.open(elf(False))), Orders(timeout=30))
            run.start()
            ended = run.go()
            stop = ended.kernel.stop
            yield from _spaces(stop)
            yield from _audit(stop)
            yield from _snapshots(stop, Path(name))
            yield from _faces(stop)
        yield from _all_of_ram(Path(name))
        yield from _explanation()
        yield from _names(Path(name))


def _spaces(stop: Stop) -> Iterator[Row]:
    kernel = Kernel(stop)
    roots = [s.root for s in kernel.audited]

    def walk(number: int) -> None:
        spaces = Spaces(Tables(stop.memory), 4, True)
        for root in roots[:number]:
            spaces.space(root)

    one, every = median_ms(lambda: walk(1)), median_ms(lambda: walk(len(roots)))
    yield within("one space, merged ranges", one, 5.0, "ms")
    nine = median_ms(lambda: walk(9))
    yield measured("nine spaces of one stop", nine, "one space", one, "ms", "<=", 3.0)
    yield within(f"all {len(roots)} spaces", every, 10.0, "ms")


def _audit(stop: Stop) -> Iterator[Row]:
    def whole() -> None:
        kernel = Kernel(stop)
        build({}, RunRecord(), examine(stop, kernel), History())

    yield within("from stop to complete report", median_ms(whole), 100.0, "ms")
    kernel = Kernel(stop)
    kernel.structures.processes  # noqa: B018
    types = kernel.structures.values

    def processes() -> None:
        from breenix_gdbagent.kernel.processes import read_processes

        read_processes(types)

    # Under 1 ms for the eight processes of Breenix's own tests.
    each = median_ms(processes) / len(kernel.structures.processes.processes)
    yield within("warm process list, per process", each, 0.125, "ms")


def _snapshots(stop: Stop, place: Path) -> Iterator[Row]:
    kernel = Kernel(stop)
    report = build({"kind": "lab"}, RunRecord(), examine(stop, kernel), History())
    for memory, budget in (("tables", 50.0), ("kernel", 200.0)):
        file = place / memory

        def write(memory: str = memory, file: Path = file) -> None:
            save(file, kernel, memory, {}, RunRecord(), RunFacts(), History(), {}, report)

        yield within(f"snapshot --memory {memory}", median_ms(write, 3), budget, "ms")
    size = (place / "tables").stat().st_size / (1 << 20)
    yield within("size of a tables snapshot", size, 1.0, "MiB")
    ours = median_ms(
        lambda: subprocess.run(
            [sys.executable, "-m", "breenix_gdbagent", "report", str(place / "tables")],
            capture_output=True,
            check=False,
        ),
        3,
    )
    name = "report of a tables snapshot, from process start"
    if shutil.which("gdb") is None:
        yield absent(name, "gdb -batch", "ms", ">=", 1.0)
        return
    theirs = median_ms(
        lambda: subprocess.run(
            gdb_command(
                "-batch",
                "-ex",
                "info registers",
                str(elf(False)),
                str(place / "tables"),
            ),
            capture_output=True,
            check=False,
        ),
        3,
    )
    yield measured(name, ours, "gdb -batch info registers", theirs, "ms", ">=", 1.0)


def _all_of_ram(place: Path) -> Iterator[Row]:
    """512 MiB of one stopped guest, by us and by QEMU."""
    with targets.lab("clean", memory="512M").vm as vm:
        stop = vm.run_until([lab.MARKER], 30)
        file, dump = place / "all", place / "dump"
        ours = median_ms(lambda: save_snapshot(stop, file, extra={}), 3)
        asked = {"paging": False, "protocol": f"file:{dump}"}
        qmp = vm._holds.qmp
        assert qmp is not None
        theirs = median_ms(lambda: qmp.execute("dump-guest-memory", asked, 60), 3)
        dump.unlink()
    yield measured(
        "snapshot --memory all, 512 MiB", ours, "dump-guest-memory", theirs, "ms", ">=", 1.0
    )


def _faces(stop: Stop) -> Iterator[Row]:
    kernel = Kernel(stop)
    document = build({}, RunRecord(), examine(stop, kernel), History())
    yield within("terminal face", median_ms(lambda: render_text(document)), 50.0, "ms")
    page = render(document, kernel)
    yield within("HTML report", len(page.encode()) / (1 << 20), 2.0, "MiB")


FAULTS = ("page-fault.", "double-fault", "triple-fault", "general-prot", "invalid-op", "divide")


def _explanation() -> Iterator[Row]:
    """The fault of every scenario that has one, explained anew from its stop: the slowest."""
    slowest, count = 0.0, 0
    for scenario in lab.scenarios().values():
        if not any(code.startswith(FAULTS) for code in scenario.codes):
            continue
        with launch("lab", kernel=elf(False), append=scenario.append, cpu=scenario.cpu) as vm:
            run = GuardedRun(Debugger(vm, Image.open(elf(False))), Orders(timeout=30))
            run.start()
            stop = run.go().kernel.stop
            if list(explain(Kernel(stop))):
                count += 1
                slowest = max(slowest, median_ms(lambda s=stop: list(explain(Kernel(s)))))
    yield within(f"explanation, slowest of {count} scenarios", slowest, 50.0, "ms")


def _names(place: Path) -> Iterator[Row]:
    """First backtrace of a snapshot, from the ELF's own tables."""
    with launch("lab", kernel=elf(False), append=lab.scenario("guard-page").append) as vm:
        run = GuardedRun(Debugger(vm, Image.open(elf(False))), Orders(timeout=30))
        run.start()
        stop = run.go().kernel.stop
        file = place / "bt"
        kernel = Kernel(stop)
        examine(stop, kernel)
        save(file, kernel, "kernel", {}, RunRecord(), RunFacts(), History(), {})
        fresh = stop._replace(image=Image.open(elf(False)).loaded(stop.image.bias))  # type: ignore[union-attr]
        yield within(
            "backtrace of 256 frames, warm",
            median_ms(lambda: trace.of_cpu(Kernel(fresh), fresh.cpu), 3),
            200.0,
            "ms",
        )
    if shutil.which("gdb") is None:
        yield absent("first bt, from process start", "gdb -batch", "ms", ">=", 1.0)
        return
    ours = median_ms(
        lambda: subprocess.run(
            [sys.executable, "-m", "breenix_gdbagent", "bt", "--snapshot", str(file)],
            capture_output=True,
            check=False,
        ),
        3,
    )
    theirs = median_ms(
        lambda: subprocess.run(
            gdb_command("-batch", "-ex", "bt", str(elf(False)), str(file)),
            capture_output=True,
            check=False,
        ),
        3,
    )
    yield measured("first bt, from process start", ours, "gdb -batch bt", theirs, "ms", ">=", 1.0)
