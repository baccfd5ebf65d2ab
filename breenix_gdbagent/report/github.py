"""Annotations of a GitHub workflow: one command a cause with what follows from it, on stdout.

The escaping is that of GitHub's own toolkit (actions/toolkit, packages/core/src/command.ts).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from breenix_gdbagent.report.causes import Group, groups
from breenix_gdbagent.report.coverage import lacking
from breenix_gdbagent.report.model import Object, Report, ShownFinding
from breenix_gdbagent.report.story import (
    objects,
    paragraph,
    printable,
)

COMMAND = {"error": "error", "warning": "warning", "info": "notice"}
SUMMARY_LIMIT = 1 << 20
"""Bytes that GitHub takes for one step's summary; more, and it shows none of it."""

_PLACE = re.compile(r"(?P<file>/?[\w.-]+/[\w/.-]+\.\w+):(?P<line>\d+)")
_RUST = "core|core_arch|alloc|std|compiler_builtins|library"
_ELSEWHERE = re.compile(rf"/|({_RUST})/|[\w-]+-\d+\.\d+[\w.+-]*/")
"""No file of the repository that the workflow runs in: an absolute path, Rust's own crates (an
overflow check panics in ``core/src/panicking.rs``), a crate of the registry with its version."""


def annotate(report: Report) -> str:
    """``::error title=CODE::summary`` a cause, at its line where one is known; what was not
    checked is a notice a reason, for GitHub shows ten of a step."""
    lines = []
    for group in groups(report):
        first = group.shown[0]
        properties = {**(_place(report, first) or _place(report, group.cause))}
        properties["title"] = f"breenix-gdbagent: {_title(group)}"
        told = "\n\n".join(_said(group))
        lines.append(_command(COMMAND[first.severity], properties, told))
    for reason, names in lacking(report).items():
        said = f"not checked: {', '.join(names)}: {reason}"
        lines.append(_command("notice", {"title": "breenix-gdbagent: not checked"}, said))
    return "".join(line + "\n" for line in lines)


def _title(group: Group) -> str:
    """The cause; what the CPU did because of it first."""
    return group.cause.code if group.lead is None else f"{group.lead.code} <- {group.cause.code}"


def _said(group: Group) -> Iterator[str]:
    """A cause with its consequences inside."""
    for finding in group.shown:
        yield from (text for text in (finding.summary, paragraph(finding)) if text)
    yield from (f"then {f.code}: {f.summary}" for f in group.led_to)
    if group.cause.fix:
        yield f"Fix: {group.cause.fix}"
    if group.folded:
        yield "\n".join([f"{group.folded_words}:", *(f"- {f.summary}" for f in group.folded)])


def _place(report: Report, finding: ShownFinding) -> dict[str, str]:
    """``file`` and ``line`` of what a finding is about: where a panic says it is, else the line of
    the backtrace at which its instruction stands; nothing for a state that no line has made."""
    named = finding.evidence.named
    traces = [
        objects(cpu.backtrace["frames"])
        for stop in report.stops
        if stop.id == finding.stop
        for cpu in stop.cpus
    ]
    said = _PLACE.search(named.panic_at)
    if said is not None and not _ELSEWHERE.match(said["file"]):
        return {"file": _whole(said["file"], traces), "line": said["line"]}
    own: list[Object] = [{"file": spot.file, "line": spot.line} for spot in finding.source]
    for spot in (*own, *_spots(traces, named.rips)):
        file, line = spot.get("file"), spot.get("line")
        if file and line and not _ELSEWHERE.match(str(file)):
            return {"file": str(file), "line": str(line)}
    return {}


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


def summary(markdown: str) -> str:
    """The step summary, cut at a line where it is more than GitHub takes."""
    raw = markdown.encode()
    if len(raw) <= SUMMARY_LIMIT:
        return markdown
    note = "\n\n(cut: the rest is in the report itself)\n"
    kept = raw[: SUMMARY_LIMIT - len(note) - 8].rpartition(b"\n")[0]
    return kept.decode("utf-8", "ignore") + note


def _command(name: str, properties: dict[str, str], message: str) -> str:
    said = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {said}::{_data(message)}"


def _data(text: str) -> str:
    clean = "\n".join(printable(line) for line in text.splitlines())
    return clean.replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
