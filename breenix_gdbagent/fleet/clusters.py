"""Boots that show the same defect, as one: how often, how sure that is, and what goes with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from breenix_gdbagent.fleet.proportions import fisher, holm, wilson
from breenix_gdbagent.fleet.result import RANKS
from breenix_gdbagent.fleet.settings import factors
from breenix_gdbagent.fleet.store import Store
from breenix_gdbagent.jsonvalue import Json

ALPHA = 0.05
"""What is likelier than this to be chance, after correction, is not said to go with a cluster."""
SEVERITIES = {"error": 0, "warning": 1}


@dataclass(frozen=True, slots=True)
class Association:
    """A setting that goes with a cluster: with it `count` of `boots` showed it, without it
    `others` of `rest`; `chance` is the corrected probability that this is none of its doing."""

    factor: str
    value: str
    count: int
    boots: int
    others: int
    rest: int
    chance: float

    @property
    def more(self) -> bool:
        """More often with it than without."""
        return self.count * self.rest > self.others * self.boots


@dataclass(frozen=True, slots=True)
class Cluster:
    """One defect, as far as can be told from outside. `members` are fingerprints that are found
    only together with it. Rates are 0 to 1, times seconds of the guest's run."""

    fingerprint: str
    code: str
    severity: str
    kind: str
    title: str
    count: int
    rate: float
    low: float
    high: float
    first: int
    last: int
    settings: dict[str, Json]
    median_seconds: float | None
    snapshot: Path | None
    members: tuple[str, ...] = ()
    associations: tuple[Association, ...] = ()


@dataclass(slots=True)
class _Root:
    """A fingerprint that nothing explains, and what is folded under it."""

    fingerprint: str
    code: str
    severity: str
    kind: str
    title: str
    count: int
    first: int
    last: int
    members: list[str] = field(default_factory=list)

    @property
    def weight(self) -> tuple[int, int, str]:
        """The lightest of several that always come together gives the cluster its name."""
        return SEVERITIES[self.severity], RANKS[self.kind], self.fingerprint


def clusters_of(store: Store) -> list[Cluster]:
    """All clusters: errors first, the most frequent first."""
    total = store.count()
    leaders = _folded([_Root(*row) for row in store.roots()], store.together())
    associated = _associations(store, leaders)
    made = []
    for root in leaders:
        low, high = wilson(root.count, total)
        made.append(
            Cluster(
                root.fingerprint,
                root.code,
                root.severity,
                root.kind,
                root.title,
                root.count,
                root.count / total,
                low,
                high,
                root.first,
                root.last,
                store.boot(root.first).settings,
                store.median_time(root.fingerprint),
                _snapshot(store, root),
                tuple(root.members),
                associated.get(root.fingerprint, ()),
            )
        )
    return sorted(made, key=lambda c: (SEVERITIES[c.severity], -c.count, c.fingerprint))


def _snapshot(store: Store, root: _Root) -> Path | None:
    found = (store.snapshot(name) for name in (root.fingerprint, *root.members))
    return next((path for path in found if path is not None), None)


def _folded(roots: list[_Root], together: dict[tuple[str, str], int]) -> list[_Root]:
    """What was never found without another, heavier one is told under it: of a run that ends by a
    fault the states that are found there, and how it ended, are part of the same failure."""
    leaders: list[_Root] = []
    for root in sorted(roots, key=lambda r: r.weight):
        above = [
            one
            for one in leaders
            if together.get(_pair(one.fingerprint, root.fingerprint), 0) == root.count
            and _explains(one, root)
        ]
        if above:
            # The rarest that always comes with it: the closest to it.
            min(above, key=lambda one: (one.count, one.weight)).members.append(root.fingerprint)
        else:
            leaders.append(root)
    return leaders


def _explains(one: _Root, other: _Root) -> bool:
    """Whether `other`, never found without `one`, is part of it: of one severity a fault explains
    the state and the end of the run; two of a kind only where neither was found alone."""
    if one.severity != other.severity:
        return one.severity == "error" and one.count == other.count
    return RANKS[one.kind] < RANKS[other.kind] or one.count == other.count


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def _associations(store: Store, leaders: list[_Root]) -> dict[str, tuple[Association, ...]]:
    """Each value of each setting against all others, for each cluster, by Fisher's exact test,
    corrected for all tests together (Holm)."""
    tests: list[tuple[str, Association]] = []
    total, everywhere = settings_table(store, [root.fingerprint for root in leaders])
    for root in leaders:
        seen = everywhere[root.fingerprint]
        for (factor, value), boots in sorted(total.items()):
            whole = sum(n for (f, _), n in total.items() if f == factor)
            came = sum(n for (f, _), n in seen.items() if f == factor)
            if boots == whole:
                continue  # always the same: nothing to compare
            count = seen[factor, value]
            others, rest = came - count, whole - boots
            chance = fisher(count, boots - count, others, rest - others)
            tests.append(
                (root.fingerprint, Association(factor, value, count, boots, others, rest, chance))
            )
    found: dict[str, list[Association]] = {}
    corrected = holm([one.chance for _, one in tests])
    for (fingerprint, one), chance in zip(tests, corrected, strict=True):
        if chance < ALPHA:
            found.setdefault(fingerprint, []).append(replace(one, chance=chance))
    return {name: tuple(sorted(ones, key=lambda a: a.chance)) for name, ones in found.items()}


def settings_table(
    store: Store, fingerprints: Iterable[str]
) -> tuple[Counter[tuple[str, str]], dict[str, Counter[tuple[str, str]]]]:
    """How many boots had each value of each setting: of all, and of those that found each."""
    total: Counter[tuple[str, str]] = Counter()
    seen = {name: Counter[tuple[str, str]]() for name in fingerprints}
    for boot in store.boots():
        values = list(factors(boot.settings).items())
        total.update(values)
        for fingerprint in store.roots_of(boot.number):
            if fingerprint in seen:
                seen[fingerprint].update(values)
    return total, seen
