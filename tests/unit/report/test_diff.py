"""Two stops compared: what is paired, what is left out, and that a stop equals itself."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report import diff, diffview
from breenix_gdbagent.report.diff import normalised
from breenix_gdbagent.report.document import RunRecord
from breenix_gdbagent.report.story import objects, record
from breenix_gdbagent.run_report import build
from breenix_gdbagent.stop import SerialChunk, SerialText
from breenix_gdbagent.views.changes import Change
from breenix_gdbagent.x86.mapped_space import Range
from tests.unit.report import documents, stops
from tests.unit.report.sides import Side, compare


@cache
def side(name: str) -> Side:
    kernel = Kernel(stops.stop(name))
    document = build({"kind": "snapshot"}, RunRecord(), examine(kernel.stop, kernel))
    return Side(name, document, kernel)


def with_serial(one: Side, text: str) -> Side:
    serial = SerialText((SerialChunk(0, 0.0, text.encode()),))
    return replace(one, kernel=Kernel(one.kernel.stop._replace(serial=serial)))


@pytest.mark.parametrize("name", ["breenix-first-gp", "breenix-head-cow-fault", "linux-pti"])
def test_a_stop_equals_itself(name: str) -> None:
    found = compare(side(name), side(name))
    assert found["differs"] is False and diff.headline(found) == "no difference"
    assert found["same_run"] is (name != "linux-pti") or found["same_run"] is True


def test_two_stops_of_one_kernel() -> None:
    """Eight processes against five: those that are not in both are named, the others paired."""
    found = compare(side("breenix-seed-syscall"), side("breenix-first-gp"))
    assert found["differs"] is True
    first = {s.name for s in side("breenix-seed-syscall").kernel.audited}
    second = {s.name for s in side("breenix-first-gp").kernel.audited}
    spaces = record(found["spaces"])
    assert {s["name"] for s in objects(spaces["new"])} == second - first
    assert {s["name"] for s in objects(spaces["gone"])} == first - second
    assert spaces["paired"] == len(first & second)
    codes = {str(f["code"]) for f in objects(record(found["findings"])["new"])}
    assert "general-protection" in codes


def test_forwards_and_backwards_are_mirrors() -> None:
    one, other = side("breenix-seed-syscall"), side("breenix-first-gp")
    there, back = compare(one, other), compare(other, one)
    for key, mirror in (("new", "gone"), ("gone", "new")):
        assert record(there["findings"])[key] == record(back["findings"])[mirror]
        assert record(there["spaces"])[key] == record(back["spaces"])[mirror]
    for row, mirrored in zip(
        objects(record(there["spaces"])["changed"]), objects(record(back["spaces"])["changed"]),
        strict=True,
    ):  # fmt: skip
        assert row["added"] == mirrored["removed"] and row["removed"] == mirrored["added"]


def _change(start: int, size: int, before: str | None, after: str | None) -> Change:
    def side_of(right: str | None) -> Range | None:
        if right is None:
            return None
        return Range(start, start + size, "w" in right, "u" in right, "x" not in right)  # type: ignore[arg-type]

    return Change(start, start + size, side_of(before), side_of(after))


def test_moved_is_what_went_here_and_came_there() -> None:
    space = side("breenix-first-gp").kernel.audited[1]
    found = diff._pair(
        space,
        space,
        [
            _change(0x1000, 0x3000, "wu", None),
            _change(0x9000, 0x3000, None, "wu"),
            _change(0x20000, 0x1000, None, "x"),
            _change(0x30000, 0x1000, "w", "x"),
        ],
    )
    moved = objects(found["moved"])
    assert [(m["start"], m["to"], m["rights"]) for m in moved] == [("0x1000", "0x9000", "rw-u")]
    assert [c["start"] for c in objects(found["added"])] == ["0x20000"]
    assert found["removed"] == []
    assert [(c["rights"], c["after"]) for c in objects(found["rights"])] == [("rw-s", "r-xs")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[   12.345678] kernel: up", "[   13.000001] kernel: up"),
        ("frame at 0x1000", "frame at 0xfee0_0000"),
        ("took 12 ms", "took 9 ms"),
        ("\x1b[32mgreen\x1b[0m", "green"),
        ("tsc=123 ready", "tsc=99 ready"),
    ],
)
def test_times_and_addresses_do_not_count(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"), [("thread 5", "thread 6"), ("[ INFO] a", "[ WARN] a"), ("pid 10", "pid 1")]
)
def test_other_words_count(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_first_line_that_differs() -> None:
    base = side("breenix-first-gp")
    one = with_serial(base, "a 0x1\n@{lab}\nb\nc\n")
    other = with_serial(base, "a 0x2\nb\nd\n")
    (row,) = objects(compare(one, other)["serial"])
    assert (row["port"], row["line"], row["a"], row["b"]) == (0, 4, "c", "d")
    shorter = with_serial(base, "a 0x2\n")
    (row,) = objects(compare(one, shorter)["serial"])
    assert (row["line"], row["a"], row["b"]) == (3, "b", None)


def _side_of(document: documents.Document, name: str) -> Side:
    return Side(name, documents.report(document), side("breenix-first-gp").kernel)


def test_a_stack_cell_and_findings_that_changed() -> None:
    found = compare(_side_of(documents.clean(), "a"), _side_of(documents.faulted(), "b"))
    assert [f["code"] for f in objects(record(found["findings"])["new"])] == [
        f["code"] for f in documents.faulted()["findings"]
    ]
    cells = [(r["stack"], r["space"], r["before"], r["after"]) for r in objects(found["stacks"])]
    assert cells == [(f"slot {n}", "child", ".", "-") for n in range(3)]


def test_faces_say_the_same_and_stay_inert() -> None:
    found = compare(
        _side_of(documents.clean(), "a.core"), _side_of(documents.hostile(), "<b>.core")
    )
    text = diffview.text(found, 80)
    page = diffview.html(found)
    assert text.startswith("DIFFERENT: 4 findings new")
    assert "\x1b" not in text and "\x1b" not in page
    assert documents.HOSTILE in text and documents.HOSTILE not in page
    assert "&lt;b&gt;.core" in page
    for code in ("double-fault", "kernel-stack.unmapped"):
        assert code in text and code in page
