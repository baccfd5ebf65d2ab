"""Whole address spaces: ours against other tools on the same stop, and a thousand of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live import attach
from breenix_gdbagent.memory import PhysicalMemory
from breenix_gdbagent.memory.ramfile import RamFile, ram_of_size
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.x86.mapped_space import Spaces
from breenix_gdbagent.x86.paging import Tables
from breenix_gdbagent.x86.roots import scan_roots
from tests.bench.harness import (
    Row,
    absent,
    best_cpu_ms,
    measured,
    median_ms,
    peak_mib,
    within,
)
from tests.bench.live import Rig, rig
from tests.bench.many import many_spaces
from tests.writers.machine import TEXT, Machine, stack_top

HERE = Path(__file__).parent
VENV = Path("build") / "peers" / "bin" / "python"
"""Where `make bench` puts volatility3 and drgn."""
NAME = "one space, merged ranges"
TOOLS = {
    "volatility3": ("volatility3, mapping()", 25.0),
    "drgn": ("drgn, a walk over its reads", 10.0),
}
FLOOR = "C floor (mmap, subtree memo)"
SPACES = 1000


def rows() -> Iterator[Row]:
    """All figures of this file."""
    with rig() as there, attach(there.gdb, there.qmp, there.ram) as vm:
        stop = vm.stop(StopReason("attached"))
        ours, ranges = own_figures(stop)
        yield from _monitor(vm, ours)
        for tool in TOOLS:
            yield _outside(tool, there, stop, ours, ranges)
        yield _floor(there, stop, ours)
        small = _scan_ms(stop)
    with rig("8G") as there, attach(there.gdb, there.qmp, there.ram) as vm:
        large = _scan_ms(vm.stop(StopReason("attached")))
        yield measured("roots of 8 GiB, sparse", large, "of 512 MiB", small, "ms", "<=", 2.0)
    yield from _a_thousand()
    yield from _audit_of_a_thousand()


def own_figures(stop: Stop) -> tuple[float, int]:
    """(milliseconds, ranges) of the space in CR3."""
    root = stop.cpu.root or 0

    def once() -> int:
        return len(Spaces(Tables(stop.memory), 4, True).space(root).ranges)

    return best_cpu_ms(once), once()


def _monitor(vm, ours: float) -> Iterator[Row]:  # type: ignore[no-untyped-def]
    """The same space by QEMU's monitor, parsed into numbers."""

    def info_tlb() -> None:
        for line in vm.hmp("info tlb").splitlines():
            va, _, rest = line.partition(":")
            int(va, 16), int(rest.split()[0], 16)

    def info_mem() -> None:
        for line in vm.hmp("info mem").splitlines():
            first, _, rest = line.partition("-")
            int(first, 16), int(rest.split()[0], 16)

    yield measured(NAME, ours, "info tlb, parsed", median_ms(info_tlb, 5), "ms", ">=", 10.0)
    yield measured(NAME, ours, "info mem, parsed", median_ms(info_mem, 5), "ms", ">=", 1.0)


def _outside(tool: str, there: Rig, stop: Stop, ours: float, ranges: int) -> Row:
    """A tool in a Python of its own, over the same RAM file."""
    what, target = TOOLS[tool]
    if not VENV.is_file():
        return absent(NAME, what, "ms", ">=", target)
    command = [str(VENV), str(HERE / "outside.py"), tool, str(there.ram), hex(stop.cpu.root or 0)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        return absent(NAME, f"{what} (it failed here)", "ms", ">=", target)
    told = json.loads(done.stdout)
    against = f"{what}: {told['ranges']} ranges for our {ranges}"
    return measured(NAME, ours, against, min(told["ms"]), "ms", ">=", target)


def _floor(there: Rig, stop: Stop, ours: float) -> Row:
    """How far the limit is: the same by a few lines of C."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return absent(NAME, FLOOR, "ms", "<=", 100.0)
    with tempfile.TemporaryDirectory() as place:
        program = f"{place}/floor"
        subprocess.run([compiler, "-O2", str(HERE / "floor.c"), "-o", program], check=True)
        done = subprocess.run(
            [program, str(there.ram), hex(stop.cpu.root or 0), "500"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return measured(NAME, ours, FLOOR, int(done.stdout.split()[0]) / 1e6, "ms", "<=", 100.0)


def _scan_ms(stop: Stop) -> float:
    root = Kernel(stop).reference_root
    assert root is not None
    return best_cpu_ms(lambda: scan_roots(stop.memory, root))


def _a_thousand() -> Iterator[Row]:
    made, roots = many_spaces(SPACES)
    with tempfile.TemporaryDirectory() as place:
        size = max(made.frames) + 0x1000
        file = Path(place) / "ram"
        with file.open("wb") as out:
            out.truncate(size)
            for pa, data in made.frames.items():
                out.seek(pa)
                out.write(data)
        memory: PhysicalMemory = RamFile(file, ram_of_size(size))

        def walk(number: int) -> None:
            spaces = Spaces(Tables(memory), 4, True)
            for root in roots[:number]:
                spaces.space(root)

        one, every = best_cpu_ms(lambda: walk(1)), best_cpu_ms(lambda: walk(SPACES))
    name = f"{SPACES:,} spaces, shared kernel half"
    yield measured(name, every, "one space", one, "ms", "<=", 60.0)


def _audit_of_a_thousand() -> Iterator[Row]:
    """Every check of a machine with so many processes, in a process of its own for its memory."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.spaces"], capture_output=True, text=True, check=True
    )
    took, resident = map(float, done.stdout.split())
    yield within(f"whole audit of {SPACES:,} spaces", took, 2.0, "s")
    yield within(f"memory of that audit, {SPACES:,} spaces", resident, 200.0, "MiB")


def _audit_once() -> None:
    """Prints seconds and MiB (all of the process: the guest's RAM, 40 MiB, is in it)."""
    machine = Machine()
    machine.processes += [machine._process() for _ in range(SPACES - 2)]
    cpu = machine.cpu(rip=TEXT + 0x1000, rsp=stack_top(1) - 0x100, cs=8, ss=0x10, eflags=2)
    stop = Stop(cpus=(cpu,), memory=machine.memory(), reason=StopReason("interrupt"))
    examine(stop, Kernel(stop))
    resident = peak_mib()
    print(median_ms(lambda: examine(stop, Kernel(stop)), 3) / 1000, resident)


if __name__ == "__main__":
    _audit_once()
