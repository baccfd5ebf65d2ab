"""Two hunts: which clusters are new, gone, more or less frequent, and how likely that is chance."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.fleet.clusters import ALPHA, SEVERITIES, Cluster, clusters_of
from breenix_gdbagent.fleet.proportions import fisher, holm
from breenix_gdbagent.fleet.store import Store
from breenix_gdbagent.fleet.text import percent
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.ink import PLAIN, Ink
from breenix_gdbagent.report.page import Page


@dataclass(frozen=True, slots=True)
class Change:
    """One cluster in both hunts. `how` is ``new``, ``gone``, ``more``, ``less`` or ``same``;
    `chance` the probability that both have the same rate, corrected for all clusters (Holm)."""

    fingerprint: str
    code: str
    severity: str
    title: str
    a: int
    b: int
    how: str
    chance: float

    @property
    def certain(self) -> bool:
        """Chance is no explanation."""
        return self.chance < ALPHA


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of `boots_a` and `boots_b` boots."""

    boots_a: int
    boots_b: int
    changes: tuple[Change, ...]

    @property
    def worse(self) -> bool:
        """An error is new or more frequent, and not by chance."""
        return any(
            c.severity == "error" and c.certain and c.how in ("new", "more") for c in self.changes
        )

    @property
    def differs(self) -> bool:
        """Any cluster is another than by chance."""
        return any(c.certain for c in self.changes)


def compare(a: Store, b: Store) -> Comparison:
    """Every cluster of either."""
    boots = a.count(), b.count()
    leaders = {c.fingerprint: c for c in (*clusters_of(a), *clusters_of(b))}
    # What leads a cluster of one hunt may be told under another in the other hunt.
    counts = {name: (a.count_of(name), b.count_of(name)) for name in leaders}
    chances = [fisher(x, boots[0] - x, y, boots[1] - y) for x, y in counts.values()]
    changes = [
        _change(leaders[name], counts[name], boots, chance)
        for name, chance in zip(counts, holm(chances), strict=True)
    ]
    changes.sort(key=lambda c: (SEVERITIES[c.severity], c.chance, c.fingerprint))
    return Comparison(*boots, tuple(changes))


def _change(one: Cluster, counts: tuple[int, int], boots: tuple[int, int], chance: float) -> Change:
    (x, y), (m, n) = counts, boots
    if not x:
        how = "new"
    elif not y:
        how = "gone"
    else:
        how = "same" if x * n == y * m else "more" if y * m > x * n else "less"
    return Change(one.fingerprint, one.code, one.severity, one.title, x, y, how, chance)


def document(found: Comparison) -> Json:
    """``{a, b, differs, clusters[]}``."""
    return {
        "a": {"boots": found.boots_a},
        "b": {"boots": found.boots_b},
        "differs": found.differs,
        "worse": found.worse,
        "clusters": [
            {
                "fingerprint": c.fingerprint,
                "code": c.code,
                "severity": c.severity,
                "change": c.how,
                "a": c.a,
                "b": c.b,
                "probability": c.chance,
                "certain": c.certain,
            }
            for c in found.changes
        ],
    }


def render(found: Comparison, width: int = 100, ink: Ink = PLAIN) -> str:
    """For a terminal."""
    page = Page(width, ink)
    page.text(f"A: {found.boots_a} boots, B: {found.boots_b} boots")
    page.blank()
    if not found.changes:
        page.text("no cluster in either")
    for one in found.changes:
        page.line((one.severity, one.how), f"  {one.fingerprint}")
        rates = (
            f"A {one.a} of {found.boots_a}{_rate(one.a, found.boots_a)}, "
            f"B {one.b} of {found.boots_b}{_rate(one.b, found.boots_b)}"
        )
        sure = (
            f"chance is no explanation (probability {one.chance:.2g})"
            if one.certain
            else f"may be chance (probability {one.chance:.2g})"
        )
        page.text(f"{one.title}: {rates}; {sure}", "    ")
    return str(page)


def _rate(count: int, boots: int) -> str:
    return f" ({percent(count / boots)})" if boots else ""
