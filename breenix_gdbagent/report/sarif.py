"""SARIF 2.1.0 (OASIS), by which findings stand in a forge's code view and in editors.

A result a finding: at its line where one is known, else at the kernel's file, with the symbol as
logical location; what the CPU did has its stack. What follows from another finding says so. A
finding that the baseline knows is suppressed; what was not checked is a notification with its
reason, never a pass. Paths are relative to the repository (``%SRCROOT%``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.advice import code_of
from breenix_gdbagent.report.coverage import lacking
from breenix_gdbagent.report.model import Report, ShownFinding
from breenix_gdbagent.report.places import place
from breenix_gdbagent.report.story import objects, ordered, paragraph, printable
from breenix_gdbagent.version import VERSION

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVEL = {"error": "error", "warning": "warning", "info": "note"}
Object = dict[str, Json]
NOWHERE: Mapping[str, Json] = {}


def render(report: Report) -> str:
    """The log with one run."""
    findings = ordered(report)
    names = sorted({f.code for f in findings})
    run: Object = {
        "tool": {
            "driver": {
                "name": "breenix-gdbagent",
                "version": VERSION,
                "rules": [_rule(report, name, findings) for name in names],
            }
        },
        "automationDetails": {"id": "breenix-gdbagent/"},
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(report)],
        "results": [_result(report, finding, names) for finding in findings],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _rule(report: Report, name: str, findings: list[ShownFinding]) -> Object:
    """A finding code: what it is called, how it arises, how it is confirmed and mended."""
    known = code_of(name, report.adapter)
    title = next(f.title for f in findings if f.code == name)
    rule: Object = {"id": name, "shortDescription": _text(title or name)}
    if known is not None:
        rule["fullDescription"] = _text(known.arises)
        rule["help"] = _text(f"{known.arises}\n\nConfirm: {known.confirm}\n\nMend: {known.mend}")
        rule["defaultConfiguration"] = {"level": LEVEL[known.severity]}
    return rule


def _invocation(report: Report) -> Object:
    """The agent's run: it succeeded where there is a report at all."""
    notes: list[Json] = [
        {
            "level": "note",
            "message": _text(f"not checked: {', '.join(names)}: {reason}"),
            "descriptor": {"id": "not_checked"},
        }
        for reason, names in lacking(report).items()
    ]
    notes += [
        {"level": "error", "message": _text(f"expected {text}, which did not come")}
        for text in report.run.missing
    ]
    return {
        "executionSuccessful": True,
        "exitCode": report.run.exit,
        "exitCodeDescription": report.run.outcome,
        "toolExecutionNotifications": notes,
    }


def _result(report: Report, finding: ShownFinding, names: list[str]) -> Object:
    result: Object = {
        "ruleId": finding.code,
        "ruleIndex": names.index(finding.code),
        "level": LEVEL[finding.severity],
        "message": _text("\n\n".join(_said(report, finding))),
        "locations": [_location(report, finding)],
        "partialFingerprints": {"breenixGdbagent/v1": finding.fingerprint},
    }
    stack = list(_frames(report, finding))
    if stack:
        result["stacks"] = [{"frames": stack}]
    if finding.evidence.baseline:
        result["suppressions"] = [{"kind": "external", "justification": "known by the baseline"}]
    return result


def _said(report: Report, finding: ShownFinding) -> Iterator[str]:
    yield from (text for text in (finding.summary, paragraph(finding)) if text)
    for base in finding.because:
        cause = next((f for f in report.findings if f.fingerprint == base), None)
        if cause is not None:
            yield f"Follows from {cause.code}: {cause.summary}"
    if finding.fix:
        yield f"Fix: {finding.fix}"


def _location(report: Report, finding: ShownFinding) -> Object:
    """The line; the kernel's file where no line of the repository is known."""
    found = place(report, finding)
    file = found[0] if found else str(report.target.get("kernel") or "kernel")
    physical: Object = {"artifactLocation": _artifact(file)}
    if found:
        physical["region"] = {"startLine": found[1]}
    location: Object = {"physicalLocation": physical}
    functions = [s.function for s in finding.source if s.function]
    if functions:
        location["logicalLocations"] = [
            {"fullyQualifiedName": printable(functions[0]), "kind": "function"}
        ]
    return location


def _artifact(file: str) -> Object:
    """As a URI reference: below the repository's root, or a path of where the code was built."""
    if file.startswith("/"):
        return {"uri": f"file://{quote(file)}"}
    return {"uri": quote(file), "uriBaseId": "%SRCROOT%"}


def _frames(report: Report, finding: ShownFinding) -> Iterator[Json]:
    """The stack of the CPU on which something happened; a state that was found has none."""
    rips = finding.evidence.named.rips
    if finding.kind == "state":
        return
    for stop in report.stops:
        for cpu in stop.cpus if stop.id == finding.stop else ():
            frames = objects(cpu.backtrace["frames"])
            if any(frame["pc"] in rips for frame in frames):
                for frame in frames:
                    yield from _frame(frame)
                return


def _frame(frame: Mapping[str, Json]) -> Iterator[Json]:
    pc = str(frame["pc"])
    for spot in objects(frame["lines"]) or [NOWHERE]:
        name = str(spot.get("function") or frame.get("symbol") or pc)
        location: Object = {"message": _text(f"{pc} {name}")}
        file, line = spot.get("file"), spot.get("line")
        if file and isinstance(line, int) and line > 0:
            location["physicalLocation"] = {
                "artifactLocation": _artifact(str(file)),
                "region": {"startLine": line},
            }
        location["logicalLocations"] = [{"fullyQualifiedName": printable(name)}]
        yield {"location": location}


def _text(text: str) -> Object:
    """A message: plain text, without what a terminal would obey."""
    return {"text": "\n".join(printable(line) for line in text.splitlines())}
