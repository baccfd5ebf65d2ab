"""How a figure is taken, and the table and file that come of them."""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Sense = Literal[">=", "<="]


@dataclass(frozen=True)
class Row:
    """One figure: ours against another tool's (or a budget), in the same unit.

    `ratio` is theirs / ours for ``>=`` (how many times faster we are) and ours / theirs for
    ``<=``; `holds` None when the other side is absent.
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


def measured(
    name: str, ours: float, against: str, theirs: float, unit: str, sense: Sense, target: float
) -> Row:
    """A row with both sides measured in this run."""
    ratio = theirs / ours if sense == ">=" else ours / theirs
    holds = ratio >= target if sense == ">=" else ratio <= target
    return Row(name, ours, against, theirs, unit, ratio, sense, target, holds, "measured")


def within(name: str, ours: float, budget: float, unit: str) -> Row:
    """A row against a budget."""
    return measured(name, ours, "budget", budget, unit, "<=", 1.0)


def absent(name: str, against: str, unit: str, sense: Sense, target: float) -> Row:
    """A row whose other side is not on this machine, or was not named."""
    return Row(name, None, against, None, unit, None, sense, target, None, "absent")


def median_ms(action: Callable[[], object], rounds: int = 7) -> float:
    """Milliseconds, median of several runs after one that warms up."""
    action()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def best_cpu_ms(action: Callable[[], object], rounds: int = 20) -> float:
    """Milliseconds of CPU time, the least of several runs after one that warms up: for what only
    computes, so that what else the machine does is not counted."""
    action()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times) * 1000


def report(rows: list[Row], path: Path) -> None:
    """The table on stdout, the rows as JSON in `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n", encoding="utf-8")
    width = max(len(r.name) for r in rows)
    print(f"{'':{width}}  {'ours':>12} {'theirs':>12} {'ratio':>8}  target  against")
    for r in rows:
        if r.status == "absent":
            print(f"{r.name:{width}}  {'':>12} {'':>12} {'':>8}  {'absent':<8} {r.against}")
            continue
        mark = "" if r.holds else "   MISSED"
        print(
            f"{r.name:{width}}  {r.ours:>9.3f} {r.unit:<2} {r.theirs:>9.3f} {r.unit:<2} "
            f"{r.ratio:>8.2f}  {r.sense}{r.target:<6g}{r.against}{mark}"
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
