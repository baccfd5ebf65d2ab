"""JUnit XML for test dashboards: each check of each stop is a test case.

``failed`` is a failure that holds its findings and what follows from them, ``not_checked`` is
skipped with its reason and never a pass; so is a check that has only met what follows from the
finding of another. Each has the time that it took, where that was measured. Findings that belong to
no check (how the run ended) are a case of their own, and its time is the run's. Which elements and
attributes there may be is what Jenkins takes (jenkinsci/xunit-plugin,
types/model/xsd/junit-10.xsd), the strictest of the dialects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast
from xml.etree import ElementTree

from breenix_gdbagent.report import drawn
from breenix_gdbagent.report.backtraces import tells
from breenix_gdbagent.report.causes import Group, codes_words, groups
from breenix_gdbagent.report.coverage import counts
from breenix_gdbagent.report.model import Report, ShownCheck, ShownFinding, ShownStop
from breenix_gdbagent.report.page import Page
from breenix_gdbagent.report.story import (
    chain_of,
    labels,
    objects,
    ordered,
    paragraph,
    record,
    source_words,
    stop_words,
    target_words,
)

SUITE = "breenix-gdbagent"
WIDTH = 96
RUN = "run"
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report, timestamp: str | None = None, hostname: str | None = None) -> str:
    """The document as one ``testsuites`` element. `timestamp` is when the run began, in UTC
    (``2026-01-31T23:59:59``), `hostname` the machine it ran on."""
    cases = list(_cases(report))
    failures = sum(1 for c in cases if c.find("failure") is not None)
    skipped = sum(1 for c in cases if c.find("skipped") is not None)
    totals = {
        "tests": str(len(cases)),
        "failures": str(failures),
        "errors": "0",
        **_time(report.run.seconds),
    }
    made = {"skipped": str(skipped)}
    made |= {"timestamp": timestamp} if timestamp else {}
    made |= {"hostname": xml_safe(hostname)} if hostname else {}
    top = ElementTree.Element("testsuites", {"name": SUITE, **totals})
    suite = ElementTree.SubElement(top, "testsuite", {"name": SUITE, **totals, **made})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (
        ("target", target_words(report)),
        ("outcome", str(report.run.outcome)),
        ("findings", counts(report)),
    ):
        ElementTree.SubElement(properties, "property", {"name": name, "value": xml_safe(value)})
    suite.extend(cases)
    tail = [line.text for line in report.serial.tail]
    if tail:
        ElementTree.SubElement(suite, "system-out").text = xml_safe("\n".join(tail))
    ElementTree.indent(top)
    text = ElementTree.tostring(top, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _time(seconds: float | None) -> dict[str, str]:
    """The attribute: a decimal number of three places, as the schema has it; none where the time
    is not known."""
    return {"time": f"{seconds:.3f}"} if seconds is not None else {}


def xml_safe(text: str) -> str:
    """Text without the characters that XML 1.0 has no way to write: they show as ``\\x1b``."""
    return _NOT_XML.sub(lambda m: f"\\x{ord(m[0]):02x}", text)


def _cases(report: Report) -> Iterator[ElementTree.Element]:
    everything = ordered(report)
    findings = [f for f in everything if f.severity != "info"]
    checks = report.checks
    claimed: list[ShownFinding] = []
    named = labels(report)
    took = _check_times(report)
    made = groups(report)
    causes = {id(group.cause): group for group in made}
    under = {id(f): g.cause for g in made for f in g.followed if f.kind == "state"}
    for stop in report.stops:
        mine = [c for c in checks if c.stop == stop.id]
        for check in mine:
            name = check.name
            found = [f for f in findings if f.stop == stop.id and f.check == name]
            claimed += found
            new = [f for f in found if not _tolerated(f)]
            # A state is told once, at its first stop; a fault that was survived is information.
            told = [f for f in everything if f.check == name]
            if told and all(f.severity == "info" or _tolerated(f) for f in told):
                check = replace(check, status="passed")
            own = [f for f in new if id(f) not in under]
            if new and not own:
                check = replace(check, status="not_checked", reason=_told_under(new, under))
            yield _case(stop, name, check, own, named, took.get((stop.id, name)), causes)
    rest = [f for f in findings if not _tolerated(f) and not any(f is c for c in claimed)]
    last = report.stops[-1]
    ended = ShownCheck(RUN, last.id, "failed" if rest else "passed", None)
    yield _case(last, RUN, ended, rest, named, report.run.seconds, causes)
    for text in report.run.missing:
        name = f"expected {text}, which did not come"
        yield _case(last, name, ShownCheck(name, last.id, "failed", None), [], named)


def _told_under(found: Sequence[ShownFinding], under: Mapping[int, ShownFinding]) -> str:
    """Why a check whose findings all follow from others' is no failure of its own."""
    causes = {f"{under[id(f)].code} ({under[id(f)].check})" for f in found}
    return f"{codes_words(found)}: follows from {', '.join(sorted(causes))}, and is told there"


def _check_times(report: Report) -> dict[tuple[int, str], float]:
    """(number of the stop, name of the check) -> seconds, of those that were timed."""
    timings = record(report.provenance.get("timings", {}))
    return {
        (cast(int, one["stop"]), str(one["check"])): cast(float, one["seconds"])
        for one in objects(timings.get("checks"))
    }


def _tolerated(finding: ShownFinding) -> bool:
    """Whether the baseline has it: what is known does not turn a build red."""
    return finding.evidence.baseline


def _case(
    stop: ShownStop,
    name: str,
    check: ShownCheck,
    found: Sequence[ShownFinding],
    named: Mapping[str, str],
    seconds: float | None = None,
    causes: Mapping[int, Group] | None = None,
) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase",
        {
            "classname": xml_safe(f"{SUITE}.stop{stop.id}.{stop.reason}"),
            "name": xml_safe(name),
            **_time(seconds),
        },
    )
    if check.status == "not_checked":
        reason = str(check.reason or "not checked")
        ElementTree.SubElement(case, "skipped", {"message": xml_safe(reason)})
    elif check.status == "failed":
        said = found[0].summary if found else f"{name} failed at this stop"
        kind = found[0].code if found else name
        failure = ElementTree.SubElement(
            case, "failure", {"message": xml_safe(said), "type": xml_safe(kind)}
        )
        told = [t for f in found for t in _with_consequences(f, named, causes or {})]
        body = [stop_words(stop), *told, *_traces(stop, found)]
        failure.text = xml_safe("\n\n".join(body))
    return case


def _with_consequences(
    finding: ShownFinding, named: Mapping[str, str], causes: Mapping[int, Group]
) -> Iterator[str]:
    """A finding, and under it what follows from it."""
    yield _finding(finding, named)
    group = causes.get(id(finding))
    if group is not None and group.followed:
        rows = [f"- {f.code}: {f.summary}" for f in group.followed]
        yield "\n".join([f"From {finding.code} follows:", *rows])


def _finding(finding: ShownFinding, named: Mapping[str, str]) -> str:
    lines = [f"{str(finding.severity).upper()} {finding.code}: {finding.summary}"]
    if source_words(finding):
        lines.append(f"At {source_words(finding)}")
    if paragraph(finding):
        lines.append(paragraph(finding))
    lines += [f"  {n}. {step}" for n, step in enumerate(chain_of(finding), 1)]
    if finding.evidence.walk is not None:
        page = Page(WIDTH)
        drawn.walk(page, finding.evidence.walk, named, "")
        lines += page.lines
    if finding.cause:
        lines.append(f"Cause: {finding.cause}")
    if finding.fix:
        lines.append(f"Fix: {finding.fix}")
    lines.append(f"Fingerprint: {finding.fingerprint}")
    return "\n".join(lines)


def _traces(stop: ShownStop, found: Sequence[ShownFinding]) -> Iterator[str]:
    """Where each CPU came from, under what happened; a state that was found needs none."""
    if all(f.kind == "state" for f in found):
        return
    for cpu in stop.cpus:
        trace = cpu.backtrace
        if tells(trace):
            page = Page(WIDTH)
            drawn.backtrace(page, trace, "  ")
            yield "\n".join([f"Backtrace of CPU {cpu.id}:", *page.lines])
