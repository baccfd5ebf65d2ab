"""Whole address spaces: ours against other tools on the same stop, and a thousand of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
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
from tests.bench.cfloor import NAME as FLOOR
from tests.bench.cfloor import c_floor, floor_ms
from tests.bench.harness import (
    PYTHON,
    Action,
    Pairs,
    Row,
    absent,
    bounded,
    cpu,
    judged,
    pairs,
    peak_mib,
    python_start,
    wall,
)  # fmt: skip
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
SPACES = 1000


def rows() -> Iterator[Row]:
    """All figures of this file."""
    with rig() as there, attach(there.gdb, there.qmp, there.ram) as vm:
        stop = vm.stop(StopReason("attached"))
        once, ranges = own_space(stop)
        yield from _monitor(vm, once)
        for tool in TOOLS:
            yield _outside(tool, there, stop, once, ranges)
        yield _floor(there, stop, once)
        with rig("8G") as wide, attach(wide.gdb, wide.qmp, wide.ram) as other:
            large, small = _scan(other.stop(StopReason("attached"))), _scan(stop)
            both = pairs(cpu(large), cpu(small))
        yield judged("roots of 8 GiB, sparse", both, "of 512 MiB", "ms", "<=", 2.0)
    yield from _a_thousand()


def own_space(stop: Stop) -> tuple[Action, int]:
    """(what reads the space in CR3, how many ranges it has)."""
    root = stop.cpu.root or 0

    def once() -> int:
        return len(Spaces(Tables(stop.memory), 4, True).space(root).ranges)

    return once, once()


def _monitor(vm, once: Action) -> Iterator[Row]:  # type: ignore[no-untyped-def]
    """The same space by QEMU's monitor, parsed into numbers."""

    def info_tlb() -> None:
        for line in vm.hmp("info tlb").splitlines():
            va, _, rest = line.partition(":")
            int(va, 16), int(rest.split()[0], 16)

    def info_mem() -> None:
        for line in vm.hmp("info mem").splitlines():
            first, _, rest = line.partition("-")
            int(first, 16), int(rest.split()[0], 16)

    both = pairs(wall(once), wall(info_tlb))
    yield judged(NAME, both, "info tlb, parsed", "ms", ">=", 10.0)
    yield judged(NAME, pairs(wall(once), wall(info_mem)), "info mem, parsed", "ms", ">=", 1.0)


def _outside(tool: str, there: Rig, stop: Stop, once: Action, ranges: int) -> Row:
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
    theirs = iter(told["ms"])
    both = pairs(cpu(once), lambda: next(theirs), len(told["ms"]), warm=False)
    return judged(NAME, both, against, "ms", ">=", target)


def _floor(there: Rig, stop: Stop, once: Action) -> Row:
    """How far the limit is: the same by a few lines of C."""
    with c_floor() as program:
        if program is None:
            return absent(NAME, FLOOR, "ms", "<=", 100.0)
        theirs = floor_ms(program, there.ram, [stop.cpu.root or 0], 500)
        return judged(NAME, pairs(cpu(once), theirs), FLOOR, "ms", "<=", 100.0)


def _scan(stop: Stop) -> Action:
    root = Kernel(stop).reference_root
    assert root is not None
    return lambda: scan_roots(stop.memory, root)


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

        both = pairs(cpu(lambda: walk(SPACES)), cpu(lambda: walk(1)), 5)
    name = f"{SPACES:,} spaces, shared kernel half"
    yield judged(name, both, "one space", "ms", "<=", 60.0)
    yield from _audit_of_a_thousand()


def _audit_of_a_thousand() -> Iterator[Row]:
    """Every check of a machine with so many processes, in a process of its own for its memory."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.spaces"], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    name = f"whole audit of {SPACES:,} spaces"
    yield judged(name, Pairs(**told["both"]), PYTHON, "ms", "<=", 40.0)
    yield bounded(f"memory of that audit, {SPACES:,} spaces", told["resident"], 200.0)


def _audit_once() -> None:
    """Prints the audit beside Python's own start, and MiB (all of the process: the guest's RAM,
    40 MiB, is in it)."""
    machine = Machine()
    machine.processes += [machine._process() for _ in range(SPACES - 2)]
    state = machine.cpu(rip=TEXT + 0x1000, rsp=stack_top(1) - 0x100, cs=8, ss=0x10, eflags=2)
    stop = Stop(cpus=(state,), memory=machine.memory(), reason=StopReason("interrupt"))
    examine(stop, Kernel(stop))
    resident = peak_mib()
    both = pairs(cpu(lambda: examine(stop, Kernel(stop))), python_start, 5)
    print(json.dumps({"both": asdict(both), "resident": resident}))


if __name__ == "__main__":
    _audit_once()
