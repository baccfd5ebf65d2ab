"""The report for an issue, in the shape of Breenix's own debugging write-ups.

Problem, Root cause, Evidence, Fix, How to confirm: as DIRECT_EXECUTION_FIX.md and its kin are
built. Whatever the guest wrote is escaped: it is text, never markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from breenix_gdbagent.report import drawn
from breenix_gdbagent.report.advice import code_of
from breenix_gdbagent.report.backtraces import tells
from breenix_gdbagent.report.causes import groups, line_of_causes
from breenix_gdbagent.report.coverage import counts, lacking, lost, verdict
from breenix_gdbagent.report.model import Report, ShownFinding, ShownStop
from breenix_gdbagent.report.order import order_words
from breenix_gdbagent.report.page import Page
from breenix_gdbagent.report.story import (
    SEVERITIES,
    chain_of,
    drawn_by_check,
    effect_words,
    facts,
    inside,
    labels,
    last_lines,
    log_text,
    ordered,
    paragraph,
    place_words,
    pointer_names,
    printable,
    run_words,
    source_words,
    stop_words,
    system_words,
    target_words,
    tests_words,
    value_words,
)

WIDTH = 96
TAIL = 12
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_MARKUP = re.compile(r"[\\`*\[|~]|(?<!\w)_|_(?!\w)|#(?=\d)")
_START = re.compile(r"[>=]|[+-](?=\s|$)|-(?=-)|#(?=[#\s]|$)|\d+(?=[.)](?:\s|$))")
_HTML = str.maketrans({"<": "&lt;", "&": "&amp;"})


def render(report: Report) -> str:
    """The whole document as GitHub-flavoured Markdown."""
    findings = ordered(report)
    parts = [*_told(report, findings), *_others(report, findings), *_checks(report)]
    told = (target_words(report), run_words(report), tests_words(report))
    run = ", ".join(p for p in told if p)
    parts.append(f"<sub>{escaped(run)}. Written by breenix-gdbagent.</sub>")
    return "\n\n".join(p for p in parts if p) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it stands, on one line, and that is still easy to read
    as it is written; what stands between backticks stays code."""
    line = printable(" ".join(text.split("\n"))).strip()
    parts = _SPAN.split(line)
    told = "".join(code(part) if n % 2 else _plain(part) for n, part in enumerate(parts))
    start = _START.match(told)
    if start is None:
        return told
    return f"{start[0]}\\{told[start.end() :]}" if start[0].isdigit() else f"\\{told}"


def cell(text: str) -> str:
    """The same in a table, where a bar would end a cell even in a code span."""
    return _plain(printable(" ".join(text.split("\n"))))


def _plain(text: str) -> str:
    """A backslash where there would be markup: ``a_b`` needs none, ``_b`` does. It does not stop
    GitHub from seeing a mention or a tag."""
    return _MARKUP.sub(r"\\\g<0>", text).translate(_HTML).replace("@", "&#64;")


def code(text: str) -> str:
    """A code span that holds even backticks."""
    clean = printable(text.replace("\n", " "))
    ticks = "`" * (max((len(run) for run in re.findall("`+", clean)), default=0) + 1)
    pad = " " if clean.startswith("`") or clean.endswith("`") else ""
    return f"{ticks}{pad}{clean}{pad}{ticks}"


def fenced(lines: Sequence[str], language: str = "text") -> str:
    """A code block with a fence longer than any in it."""
    clean = [printable(line) for line in lines]
    longest = max((len(run) for line in clean for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *clean, fence])


def _told(report: Report, findings: Sequence[ShownFinding]) -> Iterator[str]:
    """The sections about the leading finding and what caused it."""
    if not findings:
        outcome = verdict(report).capitalize()
        yield f"# {escaped(outcome)}: {escaped(counts(report))}"
        yield escaped(lost(report))
        return
    lead, *causes = _line_of_causes(findings)
    root = causes[-1] if causes else lead
    yield f"# {escaped(str(lead.code))}: {escaped(str(lead.title))}"
    yield f"**{escaped(counts(report))}**"
    yield escaped(order_words(report))
    yield escaped(effect_words(report))
    if lost(report):
        yield escaped(lost(report))
    yield "## Problem"
    yield escaped(lead.summary)
    if source_words(lead):
        yield f"At {code(source_words(lead))}"
    stops = report.stops
    stop = next((s for s in stops if s.id == lead.stop), stops[-1])
    yield _stop(stop)
    yield "## Root cause"
    yield from _root_cause(report, lead, root)
    yield "## Evidence"
    for finding in (root, lead) if root is not lead else (lead,):
        yield from _evidence(report, finding)
    yield from _backtraces(stop)
    yield from _pictures(report)
    yield "## Fix"
    yield escaped(str(root.fix or lead.fix or "Not known."))
    see = root.see
    if see:
        yield "\n".join(f"- {code(place)}" for place in see)
    yield "## How to confirm"
    yield "\n".join(f"{n}. {step}" for n, step in enumerate(_confirm(report, lead, root), 1))


def _line_of_causes(findings: Sequence[ShownFinding]) -> list[ShownFinding]:
    """The leading finding, what caused it, what caused that."""
    line = [findings[0], *line_of_causes(findings[0], findings)]
    while (wanted := line[-1].cause) is not None:
        below = [f for f in findings if f.code == wanted and f not in line]
        here = [f for f in below if f.stop == line[-1].stop]
        if not below:
            break
        line.append((here or below)[0])
    return line


def _stop(stop: ShownStop) -> str:
    rows = [f"Stopped: {escaped(stop_words(stop))}."]
    for cpu in stop.cpus:
        symbol = f" {code('<' + str(cpu.symbol) + '>')}" if cpu.symbol else ""
        where = inside(cpu)
        words = place_words(cpu) + (f", {where}" if where else "")
        pc, sp = pointer_names(cpu)
        root = code(str(cpu.cr3)) if cpu.system is None else ""
        tables = f", CR3 {root}" if root else f", {', '.join(system_words(cpu))}"
        rows.append(
            f"- CPU {cpu.id}, {escaped(words)}: {pc} {code(str(cpu.rip))}{symbol}, "
            f"{sp} {code(str(cpu.rsp))}{tables}"
        )
    return rows[0] + "\n\n" + "\n".join(rows[1:])


def _backtraces(stop: ShownStop) -> Iterator[str]:
    for cpu in stop.cpus:
        trace = cpu.backtrace
        if tells(trace):
            yield f"**Backtrace of CPU {cpu.id}**"
            yield fenced(_drawn(lambda page, trace=trace: drawn.backtrace(page, trace, "")))  # type: ignore[misc]


def _root_cause(report: Report, lead: ShownFinding, root: ShownFinding) -> Iterator[str]:
    if root is not lead:
        yield f"{code(str(root.code))}: {escaped(str(root.summary))}"
    told = [paragraph(f) for f in ((lead, root) if root is not lead else (lead,))]
    yield from (escaped(text) for text in told if text)
    chain = chain_of(lead)
    if chain:
        yield "\n".join(f"{n}. {escaped(step)}" for n, step in enumerate(chain, 1))
    known = code_of(root.code, report.adapter)
    if known is not None:
        yield f"How it arises: {escaped(known.arises)}"
    if root.confidence != "proved":
        yield f"Confidence: {root.confidence}."


def _evidence(report: Report, finding: ShownFinding) -> Iterator[str]:
    named = labels(report)
    yield f"**{escaped(str(finding.code))}**"
    if finding.evidence.walk is not None:
        page = Page(WIDTH)
        drawn.walk(page, finding.evidence.walk, named, "")
        yield fenced(page.lines)
    if lines := drawn_by_check(finding):
        yield fenced(lines)
    rows = [(name, value_words(value)) for name, value in facts(finding)]
    if rows:
        table = ["| what | value |", "|---|---|"]
        table += [f"| {cell(name)} | {cell(value)} |" for name, value in rows]
        yield "\n".join(table)


def _drawn(draw: Callable[[Page], None]) -> list[str]:
    page = Page(WIDTH)
    draw(page)
    return page.lines


def _pictures(report: Report) -> Iterator[str]:
    maps = report.maps
    if not drawn.all_well(maps):
        yield fenced(_drawn(lambda page: drawn.matrix(page, report)))
    if not maps["reason"]:
        lines = _drawn(lambda page: drawn.memory_map(page, report))
        yield _folded("Memory map", fenced(lines))
    for port, tail in last_lines(report):
        said = [log_text(line.text) for line in tail[-TAIL:]]
        yield _folded(f"Last lines of COM{port + 1}", fenced(said))


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _confirm(report: Report, lead: ShownFinding, root: ShownFinding) -> Iterator[str]:
    for finding in (root, lead) if root is not lead else (lead,):
        known = code_of(finding.code, report.adapter)
        if known is not None:
            yield f"{code(known.name)}: {escaped(known.confirm)}"
    where = root.where
    if where.va is not None and where.root is not None:
        command = f"breenix-gdbagent pt walk {where.va} --root {where.root} --snapshot FILE"
        yield f"The walk itself: {code(command)}"
    yield f"What the code means: {code('breenix-gdbagent explain ' + str(root.code))}"
    yield (
        "After the fix, the same run passes: "
        f"{code('breenix-gdbagent ci')} no longer reports {code(str(root.fingerprint))}."
    )


def _others(report: Report, findings: Sequence[ShownFinding]) -> Iterator[str]:
    """What the leading finding's sections have not told: causes in a table, what follows from each
    folded under its name."""
    told = [id(f) for f in _line_of_causes(findings)] if findings else []
    made = groups(report)
    made.sort(key=lambda group: SEVERITIES.index(group.cause.severity))
    rest = [group.cause for group in made if id(group.cause) not in told]
    if rest:
        yield "## Also found\n\n" + _table(rest)
    for group in made:
        followed = [f for f in group.followed if id(f) not in told]
        if followed:
            number = f"{len(followed)} consequence{'s' * (len(followed) != 1)}"
            yield _folded(f"{number} of {group.cause.code}", _table(followed))


def _table(findings: Sequence[ShownFinding]) -> str:
    rows = ["| severity | code | what |", "|---|---|---|"]
    rows += [f"| {f.severity} | {code(str(f.code))} | {cell(str(f.summary))} |" for f in findings]
    return "\n".join(rows)


def _checks(report: Report) -> Iterator[str]:
    checks = report.checks
    reasons = lacking(report)
    if reasons:
        rows = ["## Not checked", ""]
        rows += [f"- {escaped(', '.join(names))}: {escaped(why)}" for why, names in reasons.items()]
        yield "\n".join(rows)
    passed = sorted({c.name for c in checks if c.status == "passed"})
    if passed:
        yield f"Checks passed: {escaped(', '.join(passed))}."
