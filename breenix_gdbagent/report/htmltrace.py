"""CPUs of a page: registers and frames of every stop, with source lines where they can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from breenix_gdbagent.report.backtraces import rows, short
from breenix_gdbagent.report.machine import cpu_cells
from breenix_gdbagent.report.model import Report, ShownCpu
from breenix_gdbagent.report.story import inside, objects, place_words, stop_words
from breenix_gdbagent.views.stop_detail import StopDetail

ReadSource = Callable[[str, int], Sequence[tuple[int, str]]]
"""(file, line) -> numbered lines around it; empty where the source is not at hand."""

REGISTERS = ("rsp", "cr2", "cr3", "cr0", "cr4", "efer")


def stops_of(
    report: Report, detail: StopDetail | None, source: ReadSource | None
) -> list[dict[str, Any]]:
    """Every stop of the document, its CPUs with their frames. `source` reads lines of files."""
    files = {} if detail is None or source is None else _by_short_name(detail.files)
    state, last = None if detail is None else detail.state, report.stops[-1]
    return [
        {
            "id": stop.id,
            "seconds": stop.seconds,
            "words": stop_words(stop),
            "fault": stop.reason == "fault",
            "cpus": [
                _cpu(cpu, files, source) | cpu_cells(state if stop is last else None, cpu.id)
                for cpu in stop.cpus
            ],
        }
        for stop in report.stops
    ]


def _cpu(cpu: ShownCpu, files: Mapping[str, str], source: ReadSource | None) -> dict[str, Any]:
    trace = cpu.backtrace
    frames: list[dict[str, Any]] = []
    for frame in objects(trace["frames"]):
        for row in rows(frame):
            file, line = files.get(str(row["file"])), row["line"]
            text = list(source(file, int(str(line)))) if source and file and line else []
            opened = bool(text) and not any(one["source"] for one in frames)
            frames.append({**row, "source": text, "first_source": opened})
    where = inside(cpu)
    return {
        "id": cpu.id,
        "place": place_words(cpu) + (f", {where}" if where else ""),
        "rip": cpu.rip,
        "symbol": cpu.symbol,
        "registers": [
            (name.upper(), v) for name in REGISTERS if (v := getattr(cpu, name)) is not None
        ],
        "frames": frames,
        "left_out": trace["left_out"],
        "end": trace["end"],
    }


def _by_short_name(files: Sequence[str]) -> dict[str, str]:
    """Short name of a source file -> its name in the DWARF."""
    found: dict[str, str] = {}
    for file in files:
        name = short(file)
        if name is not None:
            found.setdefault(name, file)
    return found
