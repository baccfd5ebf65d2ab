"""What a report found and what it could not look at, in a few words."""

from __future__ import annotations

from breenix_gdbagent.report.causes import folded_in
from breenix_gdbagent.report.model import Report, ShownCheck
from breenix_gdbagent.report.story import SEVERITIES


def verdict(report: Report) -> str:
    """The outcome as a headline has it: ``findings``, and ``failed`` where it is what did not come
    that decides, not what was found."""
    outcome = report.run.outcome
    return "failed" if outcome == "findings" and _missing(report) else outcome


def _missing(report: Report) -> list[str]:
    """What --expect asked for and did not come."""
    return list(report.run.missing)


def counts(report: Report) -> str:
    """``2 errors, 1 warning``; ``nothing found``; with what could not be looked at, so that
    nothing found is not read as all being well."""
    findings = report.findings
    said = []
    for severity in SEVERITIES:
        number = sum(1 for f in findings if f.severity == severity)
        if number:
            noun = "for information" if severity == "info" else severity + "s" * (number != 1)
            said.append(f"{number} {noun}")
    words = ", ".join(said) or "nothing found"
    number, under = folded_in(report)
    if number:
        words += f"; {number} follow{'s' * (number == 1)} from {under}"
    known = sum(1 for f in findings if f.evidence.baseline)
    if known:
        words += f" ({known} known by the baseline)"
    if missing := _missing(report):
        words = f"expected and not seen: {', '.join(missing)}; " + (
            f"seen: {words}" if said else "nothing else found"
        )
    now = last_checks(report)
    unmade = sum(1 for c in now if c.status == "not_checked")
    return words + (f"; {unmade} of {len(now)} checks could not be made" if unmade else "")


def last_checks(report: Report) -> list[ShownCheck]:
    """The checks of the last stop."""
    checks = report.checks
    latest = max((c.stop for c in checks), default=0)
    return [c for c in checks if c.stop == latest]


def lacking(report: Report) -> dict[str, list[str]]:
    """Why checks of the last stop could not be made -> which."""
    reasons: dict[str, list[str]] = {}
    for check in last_checks(report):
        if check.status == "not_checked":
            reasons.setdefault(str(check.reason), []).append(check.name)
    return reasons


def lost(report: Report) -> str:
    """What a report without the kernel's ELF cannot tell; empty where there is one."""
    if not any("no kernel ELF" in str(c.reason) for c in last_checks(report)):
        return ""
    return (
        "Without the kernel's ELF there are no symbols, backtraces, processes, threads and "
        "allocators here: give --kernel ELF."
    )
