"""A hunt as one HTML file: clusters, rate over time, settings by cluster, each with its report."""

from __future__ import annotations

from itertools import pairwise

from markupsafe import Markup, escape

from breenix_gdbagent.fleet.clusters import Cluster, settings_table
from breenix_gdbagent.fleet.store import Store
from breenix_gdbagent.fleet.text import association_words, headline, percent
from breenix_gdbagent.report.html import environment, style
from breenix_gdbagent.report.story import printable

PARTS = 10
MOST_COLUMNS = 40


def render(store: Store, clusters: list[Cluster]) -> str:
    """The page: no network, no script."""
    about = store.about()
    boots = store.count()
    made = environment()
    made.filters["lines"] = _lines
    return made.get_template("hunt.html.j2").render(
        shown=about.get("shown"),
        headline=headline(store, about, boots),
        outcomes=store.outcomes(),
        errors=any(c.severity == "error" for c in clusters),
        clusters=clusters,
        boots=boots,
        percent=percent,
        style=style(),
        associations={
            c.fingerprint: [association_words(a) for a in c.associations] for c in clusters
        },
        reports={c.fingerprint: _report(c) for c in clusters},
        **_over_time(store, clusters, boots),
        **_matrix(store, clusters),
    )


def _lines(text: str) -> Markup:
    """The guest's text, each line made printable and escaped."""
    return Markup("\n").join(escape(printable(line)) for line in text.splitlines())


def _report(one: Cluster) -> str:
    """The text report beside the snapshot."""
    if one.snapshot is None:
        return "no snapshot was kept: QEMU and its RAM were gone"
    try:
        return one.snapshot.with_suffix(".txt").read_text("utf-8")
    except OSError as error:
        return f"{one.snapshot.with_suffix('.txt').name} cannot be read: {error.strerror}"


def _over_time(store: Store, clusters: list[Cluster], boots: int) -> dict[str, object]:
    """In each of ten parts of the hunt, how many boots showed each cluster."""
    parts = min(PARTS, boots)
    edges = [boots * n // parts for n in range(parts + 1)] if parts else [0]
    rows = []
    for one in clusters:
        came = store.came(one.fingerprint)
        counts = [sum(1 for at in came if low < at <= high) for low, high in pairwise(edges)]
        rows.append({"name": one.fingerprint, "counts": counts})
    names = [f"{low + 1} to {high}" for low, high in pairwise(edges)]
    return {"over_time": rows if parts > 1 else [], "parts": names}


def _matrix(store: Store, clusters: list[Cluster]) -> dict[str, object]:
    """Settings across, clusters down."""
    total, seen = settings_table(store, [c.fingerprint for c in clusters])
    columns = sorted(total)[:MOST_COLUMNS]
    settings = [{"factor": f, "value": v, "boots": total[f, v]} for f, v in columns]
    rows = []
    for one in clusters:
        goes = {(a.factor, a.value) for a in one.associations}
        cells = [{"count": seen[one.fingerprint][key], "goes": key in goes} for key in columns]
        rows.append({"name": one.fingerprint, "cells": cells})
    return {"settings": settings if clusters else [], "matrix": rows}
