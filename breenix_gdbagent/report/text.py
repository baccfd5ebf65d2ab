"""The report as a terminal shows it: the story first, then the evidence."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import cast

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.document import Document

Object = Mapping[str, Json]
MARK = {"error": "ERROR", "warning": "WARNING", "info": "info"}


def objects(value: Json) -> list[Object]:
    """The list of objects that a field of the document holds."""
    return [cast(Object, v) for v in cast(Sequence[Json], value or [])]


def render(document: Document, width: int = 100) -> str:
    """The whole document as plain text, at most `width` columns where the words allow."""
    parts = [_headline(document), *_stops(document)]
    findings = objects(document["findings"])
    for finding in findings:
        parts.append(_finding(finding, width))
    parts.append(_checks(document, width))
    tail = _tail(document)
    if findings and tail:
        parts.append(tail)
    return "\n\n".join(p for p in parts if p) + "\n"


def _headline(document: Document) -> str:
    run = cast(Object, document["run"])
    findings = objects(document["findings"])
    counts = [
        f"{n} {severity}{'s' if n != 1 and severity != 'info' else ''}"
        for severity in ("error", "warning", "info")
        if (n := sum(1 for f in findings if f["severity"] == severity))
    ]
    said = ", ".join(counts) or "nothing found"
    line = f"{str(run['outcome']).upper()}: {said}"
    if cast(float, run["seconds"]):
        line += (
            f"   ({run['seconds']} s of guest time, stopped {run['agent_stops']} times by us"
            + (f", {run['benign_faults']} benign faults passed" if run["benign_faults"] else "")
            + ")"
        )
    return line


def _stops(document: Document) -> list[str]:
    lines = []
    for stop in objects(document["stops"]):
        vector = f" vector {stop['vector']}" if stop["vector"] is not None else ""
        error = f" error code {stop['error_code']}" if stop["error_code"] else ""
        cr2 = f" CR2 {stop['cr2']}" if stop["cr2"] else ""
        said = f": {stop['text']}" if stop.get("text") else ""
        lines.append(f"stop {stop['id']}: {stop['reason']}{vector}{error}{cr2}{said}")
        for cpu in objects(stop["cpus"]):
            symbol = f" <{cpu['symbol']}>" if cpu["symbol"] else ""
            process = f", in {cpu['process']}" if cpu["process"] else ""
            lines.append(
                f"  CPU {cpu['id']}: ring {cpu['cpl']}, RIP {cpu['rip']}{symbol}, "
                f"RSP {cpu['rsp']}, CR3 {cpu['cr3']}{process}"
            )
    return ["\n".join(lines)] if lines else []


def _finding(finding: Object, width: int) -> str:
    evidence = cast(Object, finding["evidence"])
    head = f"{MARK[str(finding['severity'])]} {finding['code']}"
    if finding["cause"]:
        head += f"   cause: {finding['cause']}"
    lines = [head, *_wrap(str(finding["summary"]), width)]
    if evidence.get("explanation"):
        lines += ["", *_wrap(str(evidence["explanation"]), width)]
    chain = cast(Sequence[str], finding["chain"])
    if chain:
        lines += ["", *(f"  {'->' if i else '  '} {step}" for i, step in enumerate(chain))]
    drawn = evidence.get("walk_text")
    if drawn:
        lines += ["", *("  " + line for line in str(drawn).splitlines())]
    facts = {k: v for k, v in evidence.items() if k not in ("explanation", "walk_text", "walk")}
    lines += [f"    {key.replace('_', ' ')}: {_value(value)}" for key, value in facts.items()]
    where = cast(Object, finding["where"])
    place = ", ".join(
        f"{name} {where[key]}"
        for key, name in (("entry_pa", "entry at"), ("entry", "="), ("level", "level"))
        if where[key] is not None
    )
    if place:
        lines.append(f"    {place}")
    if finding["confidence"] != "proved":
        lines.append(f"    confidence: {finding['confidence']}")
    if finding["fix"]:
        lines += _wrap(f"Fix: {finding['fix']}", width)
    return "\n".join(lines)


def _value(value: Json) -> str:
    if value is None:
        return "not known"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_value(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = "; ".join(_value(v) for v in value[:6])
        return shown + (f"; ... ({len(value)} in all)" if len(value) > 6 else "")
    return str(value)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(40, width - 2), initial_indent="  ", subsequent_indent="  ")


def _checks(document: Document, width: int) -> str:
    checks = objects(document["checks"])
    latest = max((cast(int, c["stop"]) for c in checks), default=0)
    now = [c for c in checks if c["stop"] == latest]
    lines = []
    for status, word in (("passed", "passed"), ("failed", "failed")):
        names = [str(c["name"]) for c in now if c["status"] == status]
        if names:
            lines += _wrap(f"checks {word}: {', '.join(names)}", width)
    for check in now:
        if check["status"] == "not_checked":
            lines += _wrap(f"NOT CHECKED {check['name']}: {check['reason']}", width)
    return "\n".join(lines)


def _tail(document: Document) -> str:
    tail = objects(cast(Object, document["serial"])["tail"])
    if not tail:
        return ""
    shown = tail[-8:]
    return "\n".join(["last serial lines:", *(f"  | {line['text']}" for line in shown)])
