"""A hunt as JSON, as the contract has it."""

from __future__ import annotations

from typing import cast

from breenix_gdbagent.fleet.clusters import Association, Cluster, clusters_of
from breenix_gdbagent.fleet.store import Store
from breenix_gdbagent.jsonvalue import Json


def document(store: Store, clusters: list[Cluster] | None = None) -> dict[str, Json]:
    """``{boots, seconds, engine, outcomes{}, clusters[]}`` and what the hunt was asked for."""
    about = store.about()
    made = clusters_of(store) if clusters is None else clusters
    return {
        "boots": store.count(),
        "seconds": about.get("seconds", 0.0),
        "engine": about.get("engine"),
        "outcomes": cast(Json, store.outcomes()),
        "clusters": [cluster_json(one) for one in made],
        "target": about.get("target"),
        "seed": about.get("seed"),
        "vary": about.get("vary"),
        "asked": about.get("boots"),
        "qemu": cast(Json, store.qemus()),
    }


def cluster_json(one: Cluster) -> dict[str, Json]:
    """One cluster."""
    return {
        "fingerprint": one.fingerprint,
        "code": one.code,
        "severity": one.severity,
        "count": one.count,
        "rate": round(one.rate, 6),
        "low": round(one.low, 6),
        "high": round(one.high, 6),
        "first": {"boot": one.first, "settings": one.settings},
        "last": {"boot": one.last},
        "snapshot": None if one.snapshot is None else str(one.snapshot),
        "title": one.title,
        "median_seconds": None if one.median_seconds is None else round(one.median_seconds, 3),
        "with": list(one.members),
        "settings": [association_json(a) for a in one.associations],
    }


def association_json(one: Association) -> Json:
    """A setting that goes with a cluster."""
    return {
        "setting": one.factor,
        "value": one.value,
        "count": one.count,
        "boots": one.boots,
        "without": {"count": one.others, "boots": one.rest},
        "probability": one.chance,
    }
