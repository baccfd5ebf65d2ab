"""What a report found and what it could not look at, in a few words."""

from __future__ import annotations

from typing import cast

from breenix_gdbagent.report.story import SEVERITIES, Object, objects, record, texts


def verdict(document: Object) -> str:
    """The outcome as a headline has it: ``findings``, and ``failed`` where it is what did not come
    that decides, not what was found."""
    outcome = str(record(document["run"])["outcome"])
    return "failed" if outcome == "findings" and _missing(document) else outcome


def _missing(document: Object) -> list[str]:
    """What --expect asked for and did not come."""
    return list(texts(record(document["run"]).get("missing", [])))


def counts(document: Object) -> str:
    """``2 errors, 1 warning``; ``nothing found``; with what could not be looked at, so that
    nothing found is not read as all being well."""
    findings = objects(document["findings"])
    said = []
    for severity in SEVERITIES:
        number = sum(1 for f in findings if f["severity"] == severity)
        if number:
            noun = "for information" if severity == "info" else severity + "s" * (number != 1)
            said.append(f"{number} {noun}")
    words = ", ".join(said) or "nothing found"
    known = sum(1 for f in findings if record(f["evidence"]).get("baseline"))
    if known:
        words += f" ({known} known by the baseline)"
    if missing := _missing(document):
        words = f"expected and not seen: {', '.join(missing)}; " + (
            f"seen: {words}" if said else "nothing else found"
        )
    now = last_checks(document)
    unmade = sum(1 for c in now if c["status"] == "not_checked")
    return words + (f"; {unmade} of {len(now)} checks could not be made" if unmade else "")


def last_checks(document: Object) -> list[Object]:
    """The checks of the last stop."""
    checks = objects(document["checks"])
    latest = max((cast(int, c["stop"]) for c in checks), default=0)
    return [c for c in checks if c["stop"] == latest]


def lacking(document: Object) -> dict[str, list[str]]:
    """Why checks of the last stop could not be made -> which."""
    reasons: dict[str, list[str]] = {}
    for check in last_checks(document):
        if check["status"] == "not_checked":
            reasons.setdefault(str(check["reason"]), []).append(str(check["name"]))
    return reasons


def lost(document: Object) -> str:
    """What a report without the kernel's ELF cannot tell; empty where there is one."""
    if not any("no kernel ELF" in str(c["reason"]) for c in last_checks(document)):
        return ""
    return (
        "Without the kernel's ELF there are no symbols, backtraces, processes, threads and "
        "allocators here: give --kernel ELF."
    )
