"""The line of the repository that a finding is about, for those who show findings beside code."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from breenix_gdbagent.report.model import Object, Report, ShownFinding
from breenix_gdbagent.report.story import objects

_PLACE = re.compile(r"(?P<file>/?[\w.-]+/[\w/.-]+\.\w+):(?P<line>\d+)")
_RUST = "core|core_arch|alloc|std|compiler_builtins|library"
_ELSEWHERE = re.compile(rf"/|({_RUST})/|[\w-]+-\d+\.\d+[\w.+-]*/")
"""No file of the repository that the workflow runs in: an absolute path, Rust's own crates (an
overflow check panics in ``core/src/panicking.rs``), a crate of the registry with its version."""


def place(report: Report, finding: ShownFinding) -> tuple[str, int] | None:
    """(file, line) of what a finding is about: where a panic says it is, else the line of the
    backtrace at which its instruction stands; None for a state that no line has made."""
    named = finding.evidence.named
    traces = [
        objects(cpu.backtrace["frames"])
        for stop in report.stops
        if stop.id == finding.stop
        for cpu in stop.cpus
    ]
    said = _PLACE.search(named.panic_at)
    if said is not None and not _ELSEWHERE.match(said["file"]):
        return _whole(said["file"], traces), int(said["line"])
    own: list[Object] = [{"file": spot.file, "line": spot.line} for spot in finding.source]
    for spot in (*own, *_spots(traces, named.rips)):
        file, line = spot.get("file"), spot.get("line")
        if file and line and not _ELSEWHERE.match(str(file)):
            return str(file), int(str(line))
    return None


def _whole(file: str, traces: Sequence[Sequence[Object]]) -> str:
    """The file with its crate's folder, which a panic inside that crate does not print."""
    spots = (spot for frames in traces for frame in frames for spot in objects(frame["lines"]))
    known = (str(spot.get("file")) for spot in spots)
    return next((one for one in known if one.endswith(f"/{file}")), file)


def _spots(traces: Sequence[Sequence[Object]], rips: Collection[str]) -> Iterator[Object]:
    """The lines of the frame at one of these addresses, inlined functions first, then those of
    its callers."""
    for frames in traces:
        found = next((n for n, frame in enumerate(frames) if frame["pc"] in rips), None)
        if found is not None:
            for frame in frames[found:]:
                yield from objects(frame["lines"])
            return
