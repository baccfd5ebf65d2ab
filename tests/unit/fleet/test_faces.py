"""A hunt in every dress, and two hunts compared."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from breenix_gdbagent.fleet.clusters import clusters_of
from breenix_gdbagent.fleet.comparison import compare
from breenix_gdbagent.fleet.html import render as html
from breenix_gdbagent.fleet.junit import annotate, junit, markdown
from breenix_gdbagent.fleet.store import Store
from breenix_gdbagent.fleet.text import render as text
from tests.unit.fleet.test_clusters import found, result

EVIL = "<script>alert(1)</script>"


def hunt(place: Path, failing: int, boots: int = 40, name: str = "race") -> Store:
    made = Store.create(place, {"boots": boots, "shown": EVIL, "seconds": 2.0, "engine": "here"})
    for number in range(boots):
        what = (found(name),) if number < failing else ()
        made.add(result(number, *what, evidence=True, smp=4 if number < failing else 1))
    return made


def test_html_has_clusters_matrix_and_report_and_no_script(tmp_path: Path) -> None:
    with hunt(tmp_path / "a", 10) as store:
        page = html(store, clusters_of(store))
    assert EVIL not in page
    assert "race@x" in page
    assert "Settings by cluster" in page
    assert "<strong>10</strong>" in page  # only with 4 CPUs
    assert "Rate over time" in page
    assert "the report of boot 0" in page


def test_junit_fails_by_cluster_and_a_baseline_tolerates(tmp_path: Path) -> None:
    with hunt(tmp_path / "a", 10) as store:
        clusters = clusters_of(store)
        top = ElementTree.fromstring(junit(store, clusters, frozenset()))
        known = ElementTree.fromstring(junit(store, clusters, frozenset({"race@x"})))
        said = annotate(store, clusters, frozenset())
        summary = markdown(store, clusters)
        told = text(store, clusters)
    assert (top.get("tests"), top.get("failures")) == ("2", "1")
    assert (known.get("tests"), known.get("failures")) == ("2", "0")
    assert said.startswith("::error title=breenix-gdbagent hunt%3A race@x::")
    assert "| error | `race@x` | 10 of 40 |" in summary
    assert "only with smp=4 CPUs: 10 of 10 boots, otherwise 0 of 30" in told


def test_what_is_new_is_told_from_chance(tmp_path: Path) -> None:
    with hunt(tmp_path / "a", 0) as a, hunt(tmp_path / "b", 12) as b:
        (new,) = compare(a, b).changes
        (gone,) = compare(b, a).changes
    assert (new.how, new.a, new.b, new.certain) == ("new", 0, 12, True)
    assert (gone.how, gone.certain) == ("gone", True)


def test_one_more_in_forty_may_be_chance(tmp_path: Path) -> None:
    with hunt(tmp_path / "a", 5) as a, hunt(tmp_path / "b", 6) as b:
        found = compare(a, b)
    assert [(c.how, c.certain) for c in found.changes] == [("more", False)]
    assert not found.differs
