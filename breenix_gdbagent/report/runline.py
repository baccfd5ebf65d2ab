"""The time line of a run: markers, faults and stops, each where it came."""

from __future__ import annotations

from typing import NamedTuple

from breenix_gdbagent.report.model import Report
from breenix_gdbagent.report.story import stop_words

FEWEST = 2
"""With less than that there is nothing to put in order."""


class Moment(NamedTuple):
    """`share` of the run, in percent. `kind`: ``marker``, ``stop``, ``fault`` (a stop at one)."""

    seconds: float
    share: float
    kind: str
    text: str


def moments(report: Report) -> list[Moment]:
    """All moments of a run, in order; none where there are too few, or none has a time."""
    found = [(m.seconds, "marker", m.text) for m in report.run.markers]
    for stop in report.stops:
        kind = "fault" if stop.reason == "fault" else "stop"
        found.append((stop.seconds, kind, f"stop {stop.id}: {stop_words(stop)}"))
    end = max((seconds for seconds, _, _ in found), default=0.0)
    if len(found) < FEWEST or not end:
        return []
    found.sort(key=lambda one: one[0])
    return [Moment(s, round(100 * s / end, 2), kind, text) for s, kind, text in found]
