"""Clusters out of kept results: what is folded, what is not, and which settings go with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.fleet.clusters import clusters_of
from breenix_gdbagent.fleet.result import Evidence, Found, Result
from breenix_gdbagent.fleet.store import Store
from breenix_gdbagent.jsonvalue import Json


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "hunt", {"boots": 100}) as made:
        yield made


def found(name: str, kind: str = "event", severity: str = "error", root: bool = True) -> Found:
    return Found(f"{name}@x", name, severity, kind, root, name)


def result(number: int, *what: Found, evidence: bool = False, **settings: Json) -> Result:
    kept = Evidence(b"core", "text", "{}") if evidence else None
    outcome = "findings" if what else "passed"
    return Result(
        number, settings, outcome, int(bool(what)), 0.5, 0.25 * number, "here:1", "7.2", what, kept
    )


def names(store: Store) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {c.fingerprint: (c.count, c.members) for c in clusters_of(store)}


def test_a_state_found_only_where_the_fault_is_belongs_to_the_fault(store: Store) -> None:
    for number in range(6):
        more = (found("tables", "state"),) if number % 2 else ()
        store.add(result(number, found("fault"), *more))
    assert names(store) == {"fault@x": (6, ("tables@x",))}


def test_a_state_found_without_the_fault_is_a_defect_of_its_own(store: Store) -> None:
    store.add(result(0, found("fault"), found("tables", "state")))
    store.add(result(1, found("tables", "state")))
    assert names(store) == {"tables@x": (2, ()), "fault@x": (1, ())}


def test_two_faults_are_two_defects_however_often_they_come(store: Store) -> None:
    for number in range(4):
        store.add(result(number, found("one" if number % 2 else "two")))
    store.add(result(4, found("one"), found("two")))
    assert set(names(store)) == {"one@x", "two@x"}


def test_a_consequence_is_no_cluster(store: Store) -> None:
    store.add(result(0, found("cause", "state"), found("fault", root=False)))
    assert names(store) == {"cause@x": (1, ())}


def test_a_warning_in_every_boot_hides_no_error(store: Store) -> None:
    for number in range(4):
        errors = (found("fault"),) if number == 2 else ()
        store.add(result(number, found("leak", "state", "warning"), *errors))
    assert names(store) == {"fault@x": (1, ()), "leak@x": (4, ())}


def test_a_setting_that_goes_with_it_is_named_and_none_that_does_not(store: Store) -> None:
    for number in range(60):
        cpus = 4 if number % 3 == 0 else 1
        what = (found("race"),) if cpus == 4 and number % 2 else ()
        store.add(result(number, *what, smp=cpus, clock=number % 5))
    (cluster,) = clusters_of(store)
    assert {a.factor for a in cluster.associations} == {"smp"}
    best = next(a for a in cluster.associations if a.value == "4 CPUs")
    assert (best.count, best.boots, best.others, best.rest) == (10, 20, 0, 40)
    assert best.chance < 0.001


def test_first_last_and_median(store: Store) -> None:
    for number in (8, 2, 5, 3):
        store.add(result(number, found("fault"), smp=number))
    (cluster,) = clusters_of(store)
    assert (cluster.first, cluster.last, cluster.settings) == (2, 8, {"smp": 2})
    assert cluster.median_seconds == pytest.approx(0.25 * 4)


def test_a_result_is_kept_once(store: Store) -> None:
    assert store.add(result(3, found("fault"), evidence=True))
    assert not store.add(result(3))
    assert store.count() == 1
    (cluster,) = clusters_of(store)
    assert cluster.snapshot is not None
    assert cluster.snapshot.read_bytes() == b"core"


def test_what_is_no_hunt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no hunt"):
        Store.open(tmp_path)
    (tmp_path / "hunt.sqlite").write_text("nothing of the kind, and long enough to be read" * 40)
    with pytest.raises(InputError, match="cannot be read"):
        Store.open(tmp_path)
