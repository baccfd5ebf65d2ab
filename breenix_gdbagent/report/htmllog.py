"""The serial log of a page: lines in order of arrival, with stops and markers between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from breenix_gdbagent.report.model import Report
from breenix_gdbagent.report.seriallog import (
    LogLine,
    lines_of,
    lines_of_report,
    place_of,
)
from breenix_gdbagent.report.story import log_text, stop_words
from breenix_gdbagent.views.stop_detail import StopDetail

MOST_LINES = 3000
MOST_CHARACTERS = 400_000
LONGEST = 2000


def log_rows(report: Report, detail: StopDetail | None) -> dict[str, Any]:
    """``rows``: lines and stops in order; ``left_out``: how many lines came before the first."""
    lines = lines_of(detail.serial) if detail is not None else []
    if not lines:
        lines = lines_of_report(report)
    kept = _last(lines)
    markers = {(line.port, line.line) for line in report.serial.markers}
    rows: list[Mapping[str, Any]] = []
    stops = _stops_after(report, kept)
    ports = {line.port for line in kept}
    for index, line in enumerate(kept):
        rows.append(
            {
                "kind": "marker" if (line.port, line.number) in markers else "line",
                "id": f"log-{line.port}-{line.number}",
                "port": f"COM{line.port + 1}",
                "number": line.number,
                "seconds": "" if line.seconds is None else f"{line.seconds:.3f}",
                "level": line.level or "",
                "text": log_text(line.text[:LONGEST]),
            }
        )
        rows.extend(stops.get(index, ()))
    return {
        "rows": rows,
        "left_out": len(lines) - len(kept),
        "ports": len(ports),
        "timed": any(line.seconds is not None for line in kept),
        "stops": [row for group in stops.values() for row in group],
    }


def _last(lines: Sequence[LogLine]) -> Sequence[LogLine]:
    room, first = MOST_CHARACTERS, len(lines)
    while first and room > 0 and len(lines) - first < MOST_LINES:
        first -= 1
        room -= min(len(lines[first].text), LONGEST)
    return lines[first:]


def _stops_after(report: Report, lines: Sequence[LogLine]) -> dict[int, list[Mapping[str, Any]]]:
    """Index of a line -> the stops that came right after it."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for stop in report.stops:
        place = place_of(lines, stop)
        if place is not None:
            row = {"kind": "stop", "id": f"log-stop-{stop.id}", "text": stop_words(stop),
                   "number": stop.id}  # fmt: skip
            found.setdefault(place, []).append(row)
    return found
