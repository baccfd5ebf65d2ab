"""Markdown, JUnit and GitHub: complete, and nothing of the guest's is ever markup."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.report import github, junit, markdown
from tests.unit.report import documents


def test_markdown_has_the_sections_in_order() -> None:
    text = markdown.render(documents.report(documents.faulted()))
    heads = re.findall(r"^## (.*)$", text, re.M)
    assert heads == [
        "Problem", "Root cause", "Evidence", "Fix", "How to confirm", "Also found", "Not checked",
    ]  # fmt: skip
    assert text.startswith("# double-fault: ")


def test_markdown_tells_the_cause_under_root_cause() -> None:
    text = markdown.render(documents.report(documents.faulted()))
    part = text[text.index("## Root cause") : text.index("## Evidence")]
    assert "`kernel-stack.unmapped`" in part
    assert "could not push the frame" in part
    assert "3. double fault" in part
    fix = text[text.index("## Fix") : text.index("## How to confirm")]
    assert "mend kernel-stack" in fix and "`kernel/src/memory/process_memory.rs`" in fix
    confirm = text[text.index("## How to confirm") :]
    assert all_codes()["kernel-stack.unmapped"].confirm[:20] in confirm.replace("\\", "")
    assert "pt walk 0xffffc90000010ff8 --root 0x2b1000" in confirm


def test_markdown_of_a_clean_run() -> None:
    text = markdown.render(documents.report(documents.clean()))
    assert text.startswith("# Passed: nothing found")
    assert "## Problem" not in text


def test_markdown_is_inert() -> None:
    text = markdown.render(documents.report(documents.hostile()))
    outside = re.sub(r"(`{3,})text\n.*?\n\1", "", text, flags=re.S)
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
    assert set(re.findall(r"<[^>]*>", outside)) <= {
        "<sub>", "</sub>", "<details>", "</details>", "<summary>", "</summary>",
    }  # fmt: skip
    assert "**bold**" not in outside
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)


def test_a_fence_is_longer_than_any_inside() -> None:
    assert markdown.fenced(["a", "````", "b"]).startswith("`````text\n")
    assert markdown.code("a`b") == "``a`b``"


def _cases(document: documents.Document) -> dict[str, ElementTree.Element]:
    top = ElementTree.fromstring(junit.render(documents.report(document)))
    return {case.get("name") or "": case for case in top.iter("testcase")}


def test_junit_one_case_a_check() -> None:
    cases = _cases(documents.faulted())
    assert set(cases) == {"kernel-stacks", "tables", "heap", "run"}
    assert cases["tables"].find("failure") is None and cases["tables"].find("skipped") is None
    skipped = cases["heap"].find("skipped")
    assert skipped is not None and skipped.get("message") == "no symbol of the heap"
    failure = cases["kernel-stacks"].find("failure")
    assert failure is not None and failure.get("type") == "kernel-stack.unmapped"
    assert "kernel-stack.executable" in (failure.text or "")


def test_junit_every_error_and_warning_is_in_some_failure() -> None:
    document = documents.faulted()
    document["findings"].append(documents.finding("no-such.code"))
    text = "\n".join(
        f.text or "" for c in _cases(document).values() if (f := c.find("failure")) is not None
    )
    for finding in document["findings"]:
        assert (f"{finding['code']}: " in text) == (finding["severity"] != "info")


def test_junit_counts_agree() -> None:
    suite = next(
        ElementTree.fromstring(junit.render(documents.report(documents.faulted()))).iter(
            "testsuite"
        )
    )
    cases = list(suite.iter("testcase"))
    assert int(suite.get("tests") or 0) == len(cases)
    assert int(suite.get("failures") or 0) == sum(c.find("failure") is not None for c in cases)
    assert int(suite.get("skipped") or 0) == sum(c.find("skipped") is not None for c in cases)


# Jenkins' own schema (jenkinsci/xunit-plugin, types/model/xsd/junit-10.xsd) as rules: element ->
# (attributes it must have, others it may have, children, whether it may hold text).
TOTALS = {"name", "tests", "failures", "errors"}
JENKINS: dict[str, tuple[set[str], set[str], set[str], bool]] = {
    "testsuites": (set(), TOTALS | {"time"}, {"testsuite"}, False),
    "testsuite": (
        TOTALS,
        {"group", "time", "skipped", "timestamp", "hostname", "id", "package", "file", "log"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        False,
    ),
    "testcase": (
        {"name"},
        {"time", "classname", "group"},
        {"skipped", "error", "failure", "system-out", "system-err"},
        False,
    ),
    "properties": (set(), set(), {"property"}, False),
    "property": ({"name", "value"}, set(), set(), False),
    "failure": (set(), {"type", "message"}, set(), True),
    "error": (set(), {"type", "message"}, set(), True),
    "skipped": (set(), {"type", "message"}, set(), True),
    "system-out": (set(), set(), set(), True),
    "system-err": (set(), set(), set(), True),
}
SUREFIRE_TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]{0,3})?")


def refused_by_jenkins(element: ElementTree.Element) -> list[str]:
    """Why Jenkins would not take it, element by element; empty where it does."""
    must, may, children, text = JENKINS[element.tag]
    found = set(element.keys())
    wrong = [f"{element.tag} lacks {name}" for name in sorted(must - found)]
    wrong += [f"{element.tag} has {name}" for name in sorted(found - must - may)]
    wrong += [f"{c.tag} in {element.tag}" for c in element if c.tag not in children]
    if not text and "".join([element.text or "", *(c.tail or "" for c in element)]).strip():
        wrong.append(f"text in {element.tag}")
    if element.tag in ("testsuites", "testsuite"):
        time = element.get("time", "")
        wrong += [] if SUREFIRE_TIME.fullmatch(time) else [f"time {time}"]
    return wrong + [one for child in element for one in refused_by_jenkins(child)]


@pytest.mark.parametrize("made", [documents.faulted, documents.clean, documents.hostile])
@pytest.mark.parametrize("seconds", [0.0, 1e-7, 0.412, 1234567.25, None])
def test_jenkins_takes_the_junit(made: Any, seconds: float | None) -> None:
    document = made()
    document["run"]["seconds"] = seconds
    said = junit.render(documents.report(document), "2026-01-31T23:59:59", "ho\x1bst")
    assert refused_by_jenkins(ElementTree.fromstring(said)) == []


def test_junit_says_when_where_and_how_long() -> None:
    top = ElementTree.fromstring(
        junit.render(documents.report(documents.clean()), "2026-01-31T23:59:59", "ci-7")
    )
    suite = top[0]
    assert (suite.get("timestamp"), suite.get("hostname")) == ("2026-01-31T23:59:59", "ci-7")
    assert float(suite.get("time") or 0) == float(top.get("time") or 0) == 0.412
    (run,) = (case for case in suite.iter("testcase") if case.get("name") == "run")
    assert float(run.get("time") or 0) == 0.412
    nowhere = ElementTree.fromstring(junit.render(documents.report(documents.clean())))[0]
    assert not {"timestamp", "hostname"} & set(nowhere.keys()), "unknown is not empty"


def test_junit_has_the_time_of_each_check_that_was_timed() -> None:
    document = documents.faulted()
    first = document["checks"][0]
    document["provenance"]["timings"] = {
        "total": 2.5,
        "checks": [{"stop": first["stop"], "check": first["name"], "seconds": 0.012345}],
    }
    top = ElementTree.fromstring(junit.render(documents.report(document)))
    assert refused_by_jenkins(top) == []
    times = {c.get("name"): c.get("time") for c in top.iter("testcase")}
    assert times.pop(first["name"]) == "0.012"
    assert set(times.values()) - {times["run"]} == {None}, "not measured is not 0"


def test_junit_a_clean_run_has_no_failure() -> None:
    assert "<failure" not in junit.render(documents.report(documents.clean()))


def test_junit_survives_what_xml_cannot_write() -> None:
    text = junit.render(documents.report(documents.hostile()))
    top = ElementTree.fromstring(text)
    out = next(top.iter("system-out")).text or ""
    assert "\\x1b[31mred" in out and documents.HOSTILE in out
    assert junit.xml_safe("\ud800\ufffe\x00ok") == "\\xd800\\xfffe\\x00ok"


def test_github_one_command_a_cause() -> None:
    lines = github.annotate(documents.report(documents.faulted())).splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "::error", "::warning", "::notice", "::notice",
    ]  # fmt: skip
    title = "double-fault <- kernel-stack.unmapped"
    assert lines[0].startswith(f"::error title=breenix-gdbagent%3A {title}::summary")
    assert "Fix: " in lines[0]


@settings(deadline=None)
@given(st.text(alphabet="ab1 _*[]()#+-=>.|~<&;@!\\\\é:/", max_size=24))
def test_markdown_shows_text_as_it_stands(said: str) -> None:
    """By a Markdown parser that is not ours: one paragraph of nothing but that text."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    opened, inline, closed = parser.parse(markdown.escaped(f"x{said}y"))
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    kinds = {child.type for child in inline.children or ()}
    assert kinds <= {"text", "text_special"}
    shown = "".join(child.content for child in inline.children or ())
    assert shown == f"x{said}y"


@settings(deadline=None)
@given(st.text(alphabet="ab1 #+-=>.)", min_size=1, max_size=6))
def test_markdown_text_begins_no_block(said: str) -> None:
    tokens = MarkdownIt("commonmark").parse(markdown.escaped(said))
    assert [t.type for t in tokens] in ([], ["paragraph_open", "inline", "paragraph_close"])


def test_markdown_keeps_code_as_code() -> None:
    assert markdown.escaped("was at `mov [rax], *b*`, [x]") == "was at `mov [rax], *b*`, \\[x]"
    assert markdown.cell("`a|b`") == "\\`a\\|b\\`"


def test_github_escapes() -> None:
    lines = github.annotate(documents.report(documents.hostile())).splitlines()
    assert len(lines) == 5
    assert all(re.match(r"::(error|warning|notice) title=[^:,]*::", line) for line in lines)
    second = lines[1]
    assert "two lines%0A::error::fake" in second and "%250A" in second


def test_github_points_at_the_line_that_panicked() -> None:
    document = documents.faulted()
    document["findings"] = [documents.finding("panic", evidence={"at": "kernel/src/main.rs:12"})]
    assert "::error file=kernel/src/main.rs,line=12,title=" in github.annotate(
        documents.report(document)
    )


def _traced(*spots: tuple[str, list[tuple[str, int]]]) -> Any:
    """A document whose stop has a backtrace of frames at these addresses, with their lines."""
    document = documents.faulted()
    frames = [
        {"pc": pc, "lines": [{"file": file, "line": line} for file, line in lines]}
        for pc, lines in spots
    ]
    document["stops"][0]["cpus"][0]["backtrace"] = {"frames": frames, "left_out": 0, "end": ""}
    return document


RUST, CRATE = ("core/src/ptr/mod.rs", 5), ("x86_64-0.15.2/src/registers.rs", 9)
OURS, CALLER = ("kernel/src/memory/heap.rs", 31), ("kernel/src/main.rs", 7)


@pytest.mark.parametrize(
    ("evidence", "place"),
    [
        ({"rip": "0x20"}, "file=kernel/src/memory/heap.rs,line=31,"),
        ({"rip": "0x30"}, "file=kernel/src/main.rs,line=7,"),
        ({"rip": "0x99"}, ""),
        ({"rip": None}, ""),
        ({"cpus": [{"cpu": 0, "rip": "0x20"}]}, "file=kernel/src/memory/heap.rs,line=31,"),
        ({"at": "src/memory/heap.rs:40"}, "file=kernel/src/memory/heap.rs,line=40,"),
        ({"at": "core/src/slice/index.rs:40", "rip": "0x20"}, "file=kernel/src/memory/heap.rs,"),
        ({"at": "/rustc/1ab/library/core/src/panicking.rs:1"}, ""),
    ],
)
def test_github_points_at_the_line_of_the_backtrace(evidence: Any, place: str) -> None:
    """The frame that the finding is about, not the handler on top of it, and not a library's."""
    document = _traced(("0x10", [CALLER]), ("0x20", [RUST, CRATE, OURS]), ("0x30", [CALLER]))
    document["findings"] = [documents.finding("page-fault.null", evidence=evidence)]
    said = github.annotate(documents.report(document)).splitlines()[0]
    assert said.startswith(f"::error {place}")
    assert ("file=" in said) is bool(place)


@pytest.mark.parametrize("size", [100, github.SUMMARY_LIMIT + 5])
def test_step_summary_is_cut_to_what_github_takes(size: int) -> None:
    text = "line\n" * (size // 5 + 1)
    cut = github.summary(text)
    assert len(cut.encode()) <= github.SUMMARY_LIMIT
    assert (cut == text) == (size == 100)
