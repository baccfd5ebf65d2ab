"""What had been printed when it went wrong: a boot that says its success first has failed too."""

from __future__ import annotations

from breenix_gdbagent.report.story import Object, objects, record


def order_words(document: Object) -> str:
    """One sentence on what came before the failure; empty where nothing failed, or nothing of the
    machine's own markers had come."""
    run = record(document["run"])
    if not any(f["severity"] == "error" for f in objects(document["findings"])):
        return ""
    if run.get("succeeded"):
        return f"it had printed its success marker, {run['succeeded']}, and went wrong after that"
    first: dict[str, str] = {}
    for mark in objects(run["markers"]):  # a line that was printed twice says no more the second
        first.setdefault(str(mark["text"]), f"{mark['text']} ({mark['seconds']} s)")
    return f"printed on the way: {', '.join(first.values())}" if first else ""
