"""Findings of a stop, and what codes mean, as ``explain`` tells them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from breenix_gdbagent.agents.answers import Findings, Told, cut, fitting
from breenix_gdbagent.agents.schema import to_json
from breenix_gdbagent.agents.session import Session
from breenix_gdbagent.agents.standing import at
from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.report import explain
from breenix_gdbagent.report.model import Report, ShownFinding

FEW_REASONS = 5


def findings(session: Session, start: int) -> Findings:
    """All checks on the stop at hand, worst first."""
    report = session.held.report()
    kernel = session.held.kernel
    told = [_told(kernel, finding) for finding in report.findings]
    shown = _first(told[start:])
    end = start + len(shown)
    last = max((check.stop for check in report.checks), default=0)
    checks = [check for check in report.checks if check.stop == last]
    lacking = [check for check in checks if check.status == "not_checked"]
    reasons = tuple(str(cut(f"{c.name}: {c.reason}")) for c in lacking[:FEW_REASONS])
    if len(lacking) > FEW_REASONS:
        more = ", ".join(check.name for check in lacking[FEW_REASONS:])
        reasons = (*reasons, f"{more}: look what=checks says why")
    return Findings(
        len(told),
        shown,
        end if end < len(told) else None,
        sum(check.status == "passed" for check in checks),
        reasons,
    )


def _first(told: Sequence[Told]) -> tuple[Told, ...]:
    """As many as one answer has room for."""
    rows = [to_json(one) for one in told]
    return tuple(told[: len(fitting([row for row in rows if isinstance(row, dict)]))])


def _told(kernel: Kernel, finding: ShownFinding) -> Told:
    facts = {fact.name: fact.value for fact in finding.evidence.facts}
    rip = facts.get("rip")
    line = facts.get("at")
    place = str(rip) if isinstance(rip, str) else str(line) if isinstance(line, str) else None
    if isinstance(rip, str):
        line = at(kernel, int(rip, 16))
    symbol = facts.get("symbol")
    return Told(
        finding.code,
        finding.severity,
        finding.title,
        str(cut(finding.summary)),
        finding.cause,
        finding.fix or None,
        place,
        symbol if isinstance(symbol, str) else None,
        line if isinstance(line, str) else None,
        finding.where.va,
    )


def meaning(code: str) -> Findings:
    """What a finding code, a family, an error code or a fault line of Breenix means."""
    all_codes()
    number = parse_number(code) if " " not in code else None
    if number is not None and not number >> 32:
        return _text(code, explain.answer_number(number))
    answer = explain.answer_code(code)
    if answer is not None:
        return _codes([answer])
    answer = explain.answer_text(code)
    if answer is not None:
        return _text(code, answer)
    family = explain.answer_family(code)
    if family is None:
        return Findings(0, (_unknown(code),))
    return _codes([one for one in _list(family["codes"]) if isinstance(one, dict)])


def _unknown(code: str) -> Told:
    said = explain.text_of(explain.answer_unknown(code))
    return Told(code, "info", "not a code", str(cut(said)), None, None)


def _text(code: str, answer: dict[str, Json]) -> Findings:
    said = str(cut(explain.text_of(answer)))
    return Findings(1, (Told(code, "info", "what it says", said, None, None),))


def _codes(answers: Sequence[dict[str, Json]]) -> Findings:
    told = [
        Told(
            str(one["code"]),
            str(one["severity"]),
            str(one["title"]),
            str(cut(f"{one['arises']} To confirm: {one['confirm']}")),
            None,
            str(one["mend"]),
        )
        for one in answers
    ]
    shown = _first(told)
    return Findings(len(told), shown, None if len(shown) == len(told) else len(shown))


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def report_text(report: Report) -> str:
    """The whole document, as ``--json`` prints it."""
    return json.dumps(report.to_json(), ensure_ascii=False, indent=1)
