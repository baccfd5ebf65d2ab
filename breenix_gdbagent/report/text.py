"""The report as a terminal shows it: the story first, then the evidence."""

from __future__ import annotations

from collections.abc import Collection

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report import drawn
from breenix_gdbagent.report.backtraces import tells
from breenix_gdbagent.report.causes import Group, fault_of, groups, line_of_causes
from breenix_gdbagent.report.coverage import counts, lacking, last_checks, lost, verdict
from breenix_gdbagent.report.ink import PLAIN, Ink
from breenix_gdbagent.report.model import Object, Report, ShownCpu, ShownFinding
from breenix_gdbagent.report.moments import moments_of, moments_table
from breenix_gdbagent.report.order import order_words
from breenix_gdbagent.report.page import Page
from breenix_gdbagent.report.story import (
    chain_of,
    drawn_by_check,
    effect_words,
    facts,
    heading,
    inside,
    labels,
    last_lines,
    log_text,
    paragraph,
    place_words,
    pointer_names,
    run_words,
    source_words,
    stop_words,
    system_words,
    table_rows,
    target_words,
    tests_words,
    value_words,
)

TAIL = 8
SHORT = 34
MOST_ROWS = 8
SIDE_BY_SIDE = 150
MARK = {"error": "ERROR", "warning": "WARNING", "info": "INFO"}
OUTCOME_INK = {"passed": "good", "examined": "head"}


def render(
    report: Report, width: int = 100, colour: bool = False, verbose: bool = False
) -> str:
    """The whole document for a terminal of `width` columns; SGR codes only with `colour`, what
    follows from a cause in full only with `verbose`."""
    page = Page(width, Ink(True) if colour else PLAIN)
    _headline(page, report)
    findings = report.findings
    told: set[str] = set()
    for group in groups(report):
        _group(page, report, group, told, verbose)
    if moments := moments_of(report):
        page.blank()
        page.text("In the order in which things broke", kind="head")
        for line in moments_table(moments).splitlines():
            page.line(f"  {line}")
    page.blank()
    passed = report.run.outcome == "passed"
    _stops(page, report, registers=bool(findings) or not passed)
    _maps(page, report, passed and all(f.severity == "info" for f in findings))
    page.blank()
    _checks(page, report)
    if findings:
        _tail(page, report)
    return str(page)


def render_fault(report: Report, width: int = 100, colour: bool = False) -> str | None:
    """What the CPU did or how the run ended, with its cause, and where the CPUs are: one fault
    and not the audit. None where the report tells of none."""
    group = fault_of(report)
    if group is None:
        return None
    page = Page(width, Ink(True) if colour else PLAIN)
    _group(page, report, group, set(), verbose=False, by="audit -v")
    page.blank()
    _stops(page, report, registers=True)
    return str(page)


def _headline(page: Page, report: Report) -> None:
    run = report.run
    outcome = verdict(report)
    ink = OUTCOME_INK.get(outcome, "error")
    page.text(f"{outcome.upper()}: {counts(report)}", "", "  ", ink)
    page.text(", ".join(p for p in (target_words(report), run_words(report)) if p), kind="dim")
    written = report.provenance.get("written")
    if isinstance(written, list) and written:
        page.text(f"WRITTEN INTO by hand: {'; '.join(map(str, written))}", kind="note")
    if run.armed:
        page.text(f"watched from: {run.armed}", kind="dim")
    if tests_words(report):
        page.text(tests_words(report), kind="dim")
    if order_words(report):
        page.text(order_words(report), kind="note" if run.succeeded else "dim")
    if effect_words(report):
        page.text(effect_words(report), kind="note")
    if lost(report):
        page.text(lost(report), kind="note")


def _group(
    page: Page,
    report: Report,
    group: Group,
    told: set[str],
    verbose: bool,
    by: str = "-v",
) -> None:
    """A cause: what the CPU did because of it, itself with how to mend it, and what else followed;
    what only follows in a line, with what shows it in full (`by`)."""
    for finding in group.told if verbose else group.shown:
        page.blank()
        _finding(page, report, finding, told, advice=finding is not group.lead)
        told.update((finding.code, "\n".join(chain_of(finding))))
        if finding is group.cause and not verbose:
            _consequences(page, group, by)


def _consequences(page: Page, group: Group, by: str) -> None:
    for finding in group.led_to:
        page.text(f"{finding.code}: {finding.summary}", "  then ", "    ", finding.severity)
    if group.folded:
        page.text(f"{group.folded_words} ({by} shows them)", "  ", "    ", "dim")


def _finding(
    page: Page,
    report: Report,
    finding: ShownFinding,
    told: Collection[str],
    advice: bool = True,
) -> None:
    """One finding; of a code or chain that was `told` already, not again how to mend it."""
    again = finding.code in told or not advice
    _head(page, report, finding)
    page.text(finding.summary, "  ")
    if source_words(finding):
        page.text(f"at {source_words(finding)}", "  ", "    ", "dim")
    if paragraph(finding):
        page.blank()
        page.text(paragraph(finding), "  ")
    if "\n".join(chain_of(finding)) not in told:
        _chain(page, finding)
    if finding.code not in told or finding.severity == "error":
        named = labels(report)
        if finding.evidence.walk is not None:
            page.blank()
            drawn.walk(page, finding.evidence.walk, named)
        for line in drawn_by_check(finding):
            page.line("    " + line)
        _facts(page, finding)
    if finding.confidence != "proved":
        page.line(("note", f"  Confidence: {finding.confidence}"))
    if finding.fix and not again:
        page.text(f"Fix: {finding.fix}", "  ", "       ")
    see = finding.see
    if see and finding.severity != "info" and not again:
        page.text(f"See: {', '.join(see)}", "  ", "       ", "dim")


def _head(page: Page, report: Report, finding: ShownFinding) -> None:
    severity = finding.severity
    rest = [("", f"  {finding.title}")] if heading(finding) else []
    if len(report.stops) > 1:
        rest.append(("dim", f"  ({_first_seen(report, finding)})"))
    causes = line_of_causes(finding, report.findings)
    if finding.cause or (causes and finding.kind != "state"):
        line_of = [finding.cause or "", *(f.code for f in causes)]
        rest.append(("dim", "".join(f"  <- {code}" for code in dict.fromkeys(line_of) if code)))
    line: list[tuple[str, str]] = [(severity, f"{MARK[severity]} {finding.code}")]
    for part in rest:
        if sum(len(text) for _, text in (*line, part)) > page.width:
            page.line(*line)
            line = []
        line.append(part)
    if len(line) == 1:
        page.text(line[0][1].strip(), "  " if rest else "", "  ", line[0][0])
    else:
        page.line(*line)


def _first_seen(report: Report, finding: ShownFinding) -> str:
    """The stop at which it was first seen, with the marker it was."""
    number = finding.stop
    stop = next((s for s in report.stops if s.id == number), None)
    marker = stop is not None and stop.reason == "marker" and stop.text
    said = f"stop {number}: {str(marker).strip()[:48]}" if marker else f"stop {number}"
    return said if finding.last is None else f"{said}; last seen at stop {finding.last}"


def _chain(page: Page, finding: ShownFinding) -> None:
    chain = chain_of(finding)
    if not chain:
        return
    page.blank()
    page.line("  How it came to this:")
    for number, step in enumerate(chain, 1):
        page.text(step, f"  {number:3}. ", "       ")


def _facts(page: Page, finding: ShownFinding) -> None:
    """Short facts side by side, each long one on lines of its own, lists of objects as tables."""
    known = [(name, value, value_words(value)) for name, value in facts(finding)]
    page.blank()
    page.items(
        [w if w.startswith(f"{n} ") else f"{n} {w}" for n, v, w in known if _short(n, v, w)], "  "
    )
    for name, value, words in known:
        if _short(name, value, words):
            continue
        if not _table(page, name, table_rows(value)):
            page.text(f"{name}: {words}", "  ", "    ")


def _short(name: str, value: Json, words: str) -> bool:
    return len(name) + len(words) <= SHORT and not table_rows(value)


def _table(page: Page, name: str, rows: list[Object]) -> bool:
    """Draws `rows`, the widest column under the others where it does not fit beside them; says
    whether they fit the width."""
    if not rows:
        return False
    heads = [key.replace("_", " ") for key in rows[0]]
    body = [[value_words(cell) for cell in row.values()] for row in rows[:MOST_ROWS]]
    widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
    columns = list(range(len(heads)))
    room, under = page.width - 4, -1
    if sum(widths) + 2 * (len(widths) - 1) > room:
        under = max(columns, key=widths.__getitem__)
        columns.remove(under)
    across = sum(widths[c] for c in columns) + 2 * (len(columns) - 1)
    if not columns or across > room or (under >= 0 and widths[under] + 4 > room):
        return False
    page.line(f"  {name}:")
    for number, cells in enumerate((heads, *body)):
        line = "  ".join(f"{cells[c]:<{widths[c]}}" for c in columns)
        page.line(("dim" if not number else "", f"    {line}"))
        if under >= 0 and number:
            page.line(("dim", f"        {cells[under]}"))
    if len(rows) > len(body):
        page.line(("dim", f"    ... {len(rows)} in all"))
    return True


def _stops(page: Page, report: Report, registers: bool) -> None:
    stops = report.stops
    for stop in stops:
        which = f"Stop {stop.id}" if len(stops) > 1 else "Stopped"
        at = f" at {stop.seconds} s" if stop.seconds else ""
        page.text(f"{which}{at}: {stop_words(stop)}", "", "  ", "head")
        for cpu in stop.cpus:
            _cpu(page, cpu, registers)


def _cpu(page: Page, cpu: ShownCpu, registers: bool) -> None:
    symbol = f" <{cpu.symbol}>" if cpu.symbol else ""
    where = inside(cpu)
    words = place_words(cpu) + (f", {where}" if where else "")
    pc, sp = pointer_names(cpu)
    page.text(f"CPU {cpu.id} in {words}: {pc} {cpu.rip}{symbol}", "  ", "    ")
    if not registers:
        return
    names = ((cpu.rsp, sp), (cpu.cr2, "CR2"), (cpu.cr3, "CR3"), (cpu.cr0, "CR0"),
             (cpu.cr4, "CR4"), (cpu.efer, "EFER"))  # fmt: skip
    shown = [f"{word} {value}" for value, word in names if value is not None]
    page.items([*shown, *system_words(cpu)], "    ", "  ")
    trace = cpu.backtrace
    if tells(trace):
        page.line(("head", "    Backtrace, innermost first"))
        drawn.backtrace(page, trace, "      ")


def _maps(page: Page, report: Report, clean: bool) -> None:
    """The pictures, where there is something to see: after a fault, or where nothing was run."""
    maps = report.maps
    well = drawn.all_well(maps)
    if well:
        page.blank()
        drawn.stacks_in_a_line(page, report)
    if clean:
        return
    page.blank()
    if well or page.width < SIDE_BY_SIDE or maps["reason"]:
        if not well:
            drawn.matrix(page, report)
            page.blank()
        drawn.memory_map(page, report)
        return
    left, right = Page(page.width - 86, page.ink), Page(83, page.ink)
    drawn.matrix(left, report)
    drawn.memory_map(right, report)
    page.beside(left, right)


def _checks(page: Page, report: Report) -> None:
    now = last_checks(report)
    for status, ink in (("passed", "good"), ("failed", "bad")):
        names = [c.name for c in now if c.status == status]
        if names:
            page.text(f"Checks {status}: {', '.join(names)}", "", "  ", ink)
    for reason, names in lacking(report).items():
        page.text(f"NOT CHECKED {', '.join(names)}: {reason}", "", "  ", "note")


def _tail(page: Page, report: Report) -> None:
    for port, lines in last_lines(report):
        page.blank()
        page.line(("head", f"Last lines of COM{port + 1}"))
        for line in lines[-TAIL:]:
            page.line(("dim", f"  {line.line:5} | "), log_text(line.text))
