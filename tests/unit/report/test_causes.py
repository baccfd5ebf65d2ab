"""One defect reads as one: what follows from a cause is told under it, in every output format."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from breenix_gdbagent.commands.expectations import judge
from breenix_gdbagent.report import github, html, junit, markdown, text
from breenix_gdbagent.report.causes import groups
from tests.unit.report import documents
from tests.unit.report.documents import Document, finding, report

CAUSE = "cr3.bootloader"
STATES = ("ist.unmapped", "kernel-slot.missing", "kernel-stack.unmapped")


def bootloader() -> Document:
    """A bootloader's CR3, what the CPU made of it, and what an audit finds because of it."""
    made = documents.faulted()
    base = [f"{CAUSE}@child"]
    made["findings"] = [
        finding(CAUSE, check="cr3"),
        *(finding(code, because=base, check="kernel-stacks") for code in STATES),
        finding("page-fault.unmapped", kind="event", cause=CAUSE, because=base, check="faults"),
        finding(
            "triple-fault",
            kind="event",
            cause=CAUSE,
            because=[*base, "page-fault.unmapped@child"],
            check="faults",
        ),
        finding("panic", kind="run", cause="triple-fault", because=["triple-fault@child"]),
        finding("heap.corrupt", check="heap"),
    ]
    names = ("cr3", "kernel-stacks", "faults", "heap")
    made["checks"] = [
        {"name": name, "stop": 0, "status": "failed", "reason": None} for name in names
    ]
    return made


def test_every_finding_is_in_one_group() -> None:
    made = groups(report(bootloader()))
    assert [(g.cause.code, len(g.followed)) for g in made] == [(CAUSE, 6), ("heap.corrupt", 0)]
    first = made[0]
    assert first.lead is not None and first.lead.code == "triple-fault"
    assert [f.code for f in first.led_to] == ["panic"]
    assert {f.code for f in first.folded} == {*STATES, "page-fault.unmapped"}


def test_a_circle_and_a_lighter_base_fold_nothing() -> None:
    made = documents.faulted()
    made["findings"] = [
        finding("heap.corrupt", because=["frame.mapped-twice@child"]),
        finding("frame.mapped-twice", because=["heap.corrupt@child"]),
        finding("kernel-stack.nearly-full", severity="warning"),
        finding("double-fault", kind="event", because=["kernel-stack.nearly-full@child"]),
    ]
    told = [f.code for g in groups(report(made)) for f in g.told]
    assert sorted(told) == sorted(f["code"] for f in made["findings"])
    assert len([g for g in groups(report(made)) if g.cause.code == "double-fault"]) == 1


def test_the_terminal_folds_and_says_how_to_see_it() -> None:
    told = text.render(report(bootloader()))
    assert "6 follow from cr3.bootloader" in told
    said = " ".join(told.split())
    assert "4 consequences: " in said and "(-v shows them)" in said
    assert "ERROR kernel-stack.unmapped" not in told
    assert "then panic: summary of panic" in told
    assert "Fix: mend cr3.bootloader" in told and "Fix: mend triple-fault" not in told
    in_full = text.render(report(bootloader()), verbose=True)
    assert all(f"ERROR {code}" in in_full for code in (*STATES, "triple-fault", "panic", CAUSE))


def test_a_fault_is_told_without_the_audit() -> None:
    told = text.render_fault(report(bootloader())) or ""
    assert "triple-fault" in told and CAUSE in told and "heap.corrupt" not in told
    assert text.render_fault(report(documents.clean())) is None


def test_github_annotates_a_cause_once_with_its_consequences_inside() -> None:
    lines = github.annotate(report(bootloader())).splitlines()
    first, second, *_ = lines
    assert "triple-fault <- cr3.bootloader" in first
    assert "4 consequences" in first and "summary of kernel-stack.unmapped" in first
    assert "heap.corrupt" in second


def test_junit_fails_the_cause_and_skips_what_follows() -> None:
    top = ElementTree.fromstring(junit.render(report(bootloader())))
    cases = {case.get("name"): case for case in top.iter("testcase")}
    failed = {name for name, case in cases.items() if case.find("failure") is not None}
    assert failed == {"cr3", "faults", "heap", "run"}
    skipped = cases["kernel-stacks"].find("skipped")
    assert skipped is not None and "follows from cr3.bootloader (cr3)" in str(
        skipped.get("message")
    )
    told = cases["cr3"].find("failure")
    assert told is not None and "- ist.unmapped: summary of ist.unmapped" in str(told.text)


def test_markdown_and_html_fold_under_the_cause() -> None:
    told = markdown.render(report(bootloader()))
    assert "<summary>5 consequences of cr3.bootloader</summary>" in told
    page = html.render(report(bootloader()))
    assert '<details class="more follows"><summary>5 consequences: ' in page


@pytest.mark.parametrize(
    ("known", "counted"),
    [
        (("cr3.bootloader@child",), ["heap.corrupt"]),
        (("ist.unmapped@child", "heap.corrupt@child"), [CAUSE]),
    ],
)
def test_a_baseline_tolerates_what_follows_with_the_cause(
    known: tuple[str, ...], counted: list[str]
) -> None:
    judged = judge(report(bootloader()), [], known)
    codes = [f.code for f in judged.counted]
    assert codes[:1] == counted and ("ist.unmapped" not in codes)
    assert len(codes) == (1 if len(known) == 1 else 6)
