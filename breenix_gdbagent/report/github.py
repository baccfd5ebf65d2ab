"""Annotations of a GitHub workflow: one command a cause with what follows from it, on stdout.

The escaping is that of GitHub's own toolkit (actions/toolkit, packages/core/src/command.ts).
"""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.report.causes import Group, groups
from breenix_gdbagent.report.coverage import lacking
from breenix_gdbagent.report.model import Report, ShownFinding
from breenix_gdbagent.report.places import place
from breenix_gdbagent.report.story import paragraph, printable

COMMAND = {"error": "error", "warning": "warning", "info": "notice"}
SUMMARY_LIMIT = 1 << 20
"""Bytes that GitHub takes for one step's summary; more, and it shows none of it."""


def annotate(report: Report) -> str:
    """``::error title=CODE::summary`` a cause, at its line where one is known; what was not
    checked is a notice a reason, for GitHub shows ten of a step."""
    lines = []
    for group in groups(report):
        first = group.shown[0]
        properties = {**(_place(report, first) or _place(report, group.cause))}
        properties["title"] = f"breenix-gdbagent: {_title(group)}"
        told = "\n\n".join(_said(group))
        lines.append(command(COMMAND[first.severity], properties, told))
    for reason, names in lacking(report).items():
        said = f"not checked: {', '.join(names)}: {reason}"
        lines.append(command("notice", {"title": "breenix-gdbagent: not checked"}, said))
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
    """``file`` and ``line`` of what a finding is about; nothing where none is known."""
    found = place(report, finding)
    return {} if found is None else {"file": found[0], "line": str(found[1])}


def summary(markdown: str) -> str:
    """The step summary, cut at a line where it is more than GitHub takes."""
    raw = markdown.encode()
    if len(raw) <= SUMMARY_LIMIT:
        return markdown
    note = "\n\n(cut: the rest is in the report itself)\n"
    kept = raw[: SUMMARY_LIMIT - len(note) - 8].rpartition(b"\n")[0]
    return kept.decode("utf-8", "ignore") + note


def command(name: str, properties: dict[str, str], message: str) -> str:
    """One workflow command, everything escaped."""
    said = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {said}::{_data(message)}"


def _data(text: str) -> str:
    clean = "\n".join(printable(line) for line in text.splitlines())
    return clean.replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
