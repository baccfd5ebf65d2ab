"""How a figure is taken, and the table and file that come of them.

Nothing is judged against an absolute time: what takes time is measured beside something else that
takes time (another tool, or a floor: a C program, a client that looks at nothing, Python's own
start, QEMU's own command), in pairs one right after the other, so that whatever else the machine
does falls on both sides. Only bytes have a budget.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Sense = Literal[">=", "<="]
Action = Callable[[], object]
Timed = Callable[[], float]
"""One run: its milliseconds (or another unit, the same on both sides)."""

PAIRS = 9
AS_GDB = 0.8
"""How quick a whole process of ours is to be beside gdb: as quick, but for what two runs of one
program differ in."""
SHORTEST = 0.004
"""Seconds: what is quicker is repeated until so much has gone by."""


@dataclass(frozen=True)
class Row:
    """One figure: ours against another tool's (or a budget), in the same unit.

    `ratio` is theirs / ours for ``>=`` (how many times faster we are) and ours / theirs for
    ``<=``, the median over the pairs; `holds` None when the other side is absent.
    """

    name: str
    ours: float | None
    against: str
    theirs: float | None
    unit: str
    ratio: float | None
    sense: Sense
    target: float
    holds: bool | None
    status: Literal["measured", "absent"]


@dataclass(frozen=True)
class Pairs:
    """Two things measured one right after the other, several times: medians of each, and of
    ours / theirs over the pairs."""

    ours: float
    theirs: float
    ratio: float


def pairs(ours: Timed, theirs: Timed, rounds: int = PAIRS, warm: bool = True) -> Pairs:
    """Both sides in turn, now the one first and now the other, after one pair that warms up."""
    if warm:
        ours(), theirs()
    found: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            second = theirs()
            found.append((ours(), second))
        else:
            first = ours()
            found.append((first, theirs()))
    return Pairs(
        statistics.median(a for a, _ in found),
        statistics.median(b for _, b in found),
        statistics.median(a / b for a, b in found),
    )


def judged(name: str, both: Pairs, against: str, unit: str, sense: Sense, target: float) -> Row:
    """A row with both sides measured in this run."""
    ratio = 1 / both.ratio if sense == ">=" else both.ratio
    holds = ratio >= target if sense == ">=" else ratio <= target
    return Row(name, both.ours, against, both.theirs, unit, ratio, sense, target, holds, "measured")


def bounded(name: str, ours: float, budget: float) -> Row:
    """A row of MiB against a budget. Bytes do not depend on what else the machine does."""
    ratio = ours / budget
    return Row(name, ours, "budget", budget, "MiB", ratio, "<=", 1.0, ratio <= 1.0, "measured")


def absent(name: str, against: str, unit: str, sense: Sense, target: float) -> Row:
    """A row whose other side is not on this machine, or was not named."""
    return Row(name, None, against, None, unit, None, sense, target, None, "absent")


def wall(action: Action) -> Timed:
    """Milliseconds that go by: for what waits for another process."""
    return _timed(action, time.perf_counter)


def cpu(action: Action) -> Timed:
    """Milliseconds of CPU time of this process: for what only computes."""
    return _timed(action, time.process_time)


def _timed(action: Action, clock: Callable[[], float]) -> Timed:
    def once() -> float:
        count, start = 0, clock()
        while True:
            action()
            count += 1
            passed = clock() - start
            if passed >= SHORTEST:
                return passed * 1000 / count

    return once


def spent(action: Action) -> Timed:
    """Milliseconds of CPU time of this process and of those that it starts and ends meanwhile."""

    def once() -> float:
        before = _cpu_seconds()
        action()
        return (_cpu_seconds() - before) * 1000

    return once


def _cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def process_cpu(*command: str) -> Timed:
    """Milliseconds of CPU time of a whole process, from its start to its end."""
    return spent(lambda: subprocess.run(command, capture_output=True, check=False, timeout=60))


PYTHON = "Python's own start"
python_start: Timed = process_cpu(sys.executable, "-c", "pass")
"""CPU time: the yardstick for what only computes and what no other tool does."""


def report(rows: Sequence[Row], path: Path) -> None:
    """The table on stdout, the rows as JSON in `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n", encoding="utf-8")
    width = max(len(r.name) for r in rows)
    print(f"{'':{width}}  {'ours':>13} {'theirs':>13} {'ratio':>8}  target  against")
    for r in rows:
        if r.status == "absent":
            print(f"{r.name:{width}}  {'':>13} {'':>13} {'':>8}  {'absent':<8} {r.against}")
            continue
        mark = "" if r.holds else "   MISSED"
        print(
            f"{r.name:{width}}  {r.ours:>9.3f} {r.unit:<3} {r.theirs:>9.3f} {r.unit:<3} "
            f"{r.ratio:>8.3g}  {r.sense}{r.target:<6g}{r.against}{mark}"
        )
    missed = [r.name for r in rows if r.holds is False]
    print(f"\n{len(rows)} figures, {len(missed)} missed; written to {path}")


def peak_mib() -> float:
    """MiB of this process at its largest. Linux counts from the program's start in VmHWM, and in
    getrusage() from that of the process which started it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(row.split()[1]) for row in status.splitlines() if row[:6] == "VmHWM:") / 1024
