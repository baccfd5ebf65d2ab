"""Whether the kernel had printed its success before it failed: such a boot has failed too."""

from __future__ import annotations

from breenix_gdbagent.report.model import Report


def order_words(report: Report) -> str:
    """One sentence on what came before the failure; empty where nothing failed, or nothing of the
    machine's own markers had come."""
    run = report.run
    if not any(f.severity == "error" for f in report.findings):
        return ""
    if run.succeeded:
        return f"it had printed what was waited for, {run.succeeded}, and went wrong after that"
    first: dict[str, str] = {}
    for mark in run.markers:  # a line that was printed twice says no more the second
        first.setdefault(mark.text, f"{mark.text} ({mark.seconds} s)")
    return f"printed on the way: {', '.join(first.values())}" if first else ""
