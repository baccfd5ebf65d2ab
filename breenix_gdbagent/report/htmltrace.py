"""Backtraces of a page: every CPU's frames, with source lines where a reader for them is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from breenix_gdbagent.errors import AgentError
from breenix_gdbagent.kernel import trace
from breenix_gdbagent.kernel.view import VECTOR_NAMES, Kernel
from breenix_gdbagent.report.names import trace_json
from breenix_gdbagent.report.story import Object, objects

ReadSource = Callable[[str, int], Sequence[tuple[int, str]]]
"""(file, line) -> numbered lines around it; empty where the source is not at hand."""

MOST_FRAMES = 64


def traces(kernel: Kernel, source: ReadSource | None) -> list[dict[str, Any]]:
    """One trace a CPU; what cannot be followed says why."""
    found: list[dict[str, Any]] = []
    for cpu in kernel.stop.cpus:
        head = f"CPU {cpu.index}"
        try:
            walked = trace_json(kernel, trace.of_cpu(kernel, cpu))
        except AgentError as lacking:
            found.append({"of": head, "frames": [], "end": lacking.what})
            continue
        frames = objects(walked["frames"])
        groups = [list(same) for _, same in groupby(frames, key=lambda f: (f["pc"], f["vector"]))]
        shown = [row for same in groups[:MOST_FRAMES] for row in _rows(same[0], len(same), source)]
        left = sum(map(len, groups[MOST_FRAMES:]))
        end = f"{left} more frames; {walked['end']}" if left > 0 else str(walked["end"])
        found.append({"of": head, "frames": shown, "end": end})
    return found


def _rows(frame: Object, times: int, source: ReadSource | None) -> list[dict[str, Any]]:
    """A frame (`times` times in a row: recursion) and the functions inlined into it, innermost
    first."""
    rows = []
    chain = objects(frame["lines"])
    for number, spot in enumerate(chain or [{}]):
        last = number == len(chain) - 1 or not chain
        file, line = spot.get("file"), spot.get("line")
        text = list(source(str(file), int(str(line)))) if source and file and line else []
        rows.append(
            {
                "pc": frame["pc"] if last else "inlined",
                "times": times if last else 1,
                "name": spot.get("function") or _called(frame),
                "place": f"{file}:{line}" if file and line else "",
                "line": line,
                "source": text,
                "interrupted": _interrupted(frame) if number == 0 else "",
            }
        )
    return rows


def _called(frame: Object) -> str:
    if frame["ring"]:
        return f"ring {frame['ring']}"
    if frame["name"] is None:
        return "no symbol"
    return f"{frame['name']}+{frame['offset']}" if frame["offset"] != "0x0" else str(frame["name"])


def _interrupted(frame: Object) -> str:
    vector = frame["vector"]
    if vector is None:
        return ""
    return f"{VECTOR_NAMES.get(int(str(vector)), f'vector {vector}')} interrupted"
