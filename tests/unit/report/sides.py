"""Two stops with their reports, compared as the command `diff` does."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report import diff
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.views.comparison import compare_stops


@dataclass(frozen=True)
class Side:
    """A stop, its report, and what the file is called."""

    name: str
    report: Report
    kernel: Kernel


def compare(one: Side, other: Side) -> dict[str, Json]:
    sides = (diff.Side(side.name, side.report) for side in (one, other))
    return diff.compare(*sides, compare_stops(one.kernel, other.kernel))
