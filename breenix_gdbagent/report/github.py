"""Annotations of a GitHub workflow: one command a finding, on stdout.

The escaping is that of GitHub's own toolkit (actions/toolkit, packages/core/src/command.ts).
"""

from __future__ import annotations

import re

from breenix_gdbagent.report.coverage import lacking
from breenix_gdbagent.report.story import (
    Object,
    ordered,
    paragraph,
    printable,
    record,
)

COMMAND = {"error": "error", "warning": "warning", "info": "notice"}
SUMMARY_LIMIT = 1 << 20
"""Bytes that GitHub takes for one step's summary; more, and it shows none of it."""

_PLACE = re.compile(r"(?P<file>kernel/[\w/.-]+\.rs):(?P<line>\d+)")


def annotate(document: Object) -> str:
    """``::error title=CODE::summary`` a finding; what was not checked is a notice a reason, for
    GitHub shows ten of a step."""
    lines = []
    for finding in ordered(document):
        properties = {"title": f"breenix-gdbagent: {finding['code']}"}
        place = _PLACE.search(str(record(finding["evidence"]).get("at") or ""))
        if place is not None:
            properties = {"file": place["file"], "line": place["line"], **properties}
        told = "\n\n".join(t for t in (str(finding["summary"]), paragraph(finding)) if t)
        fix = f"\n\nFix: {finding['fix']}" if finding["fix"] else ""
        lines.append(_command(COMMAND[str(finding["severity"])], properties, told + fix))
    for reason, names in lacking(document).items():
        said = f"not checked: {', '.join(names)}: {reason}"
        lines.append(_command("notice", {"title": "breenix-gdbagent: not checked"}, said))
    return "".join(line + "\n" for line in lines)


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
