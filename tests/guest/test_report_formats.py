"""Every face of real runs: one boot a scenario, all faces written in that run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from breenix_gdbagent.report import text
from breenix_gdbagent.report.fields import from_json
from breenix_gdbagent.report.model import Report
from tests.guest.browser import Browser, needs_chromium
from tests.guest.labrun import Result, agent
from tests.schema import validate
from tests.unit.report.test_html import Page

SCENARIOS = ("clean", "kernel-stack-unmapped", "guard-page", "panic", "shared-user-table", "hang")


@dataclass(frozen=True)
class Run:
    """One `ci` run with everything that it wrote."""

    name: str
    ci: Result
    folder: Path

    @property
    def document(self) -> dict[str, Any]:
        return self.ci.document

    def file(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def run(name: str) -> Run:
        folder = tmp_path_factory.mktemp(name)
        timeout = "3" if name == "hang" else "60"
        done = agent(
            "ci", "--lab", name, "--timeout", timeout, "--json", "-o", str(folder / "stop.core"),
            "--html", str(folder / "r.html"), "--junit", str(folder / "r.xml"),
            "--markdown", str(folder / "r.md"),
        )  # fmt: skip
        return Run(name, done, folder)

    return run


def timeless(value: Any) -> Any:
    """Without what the contract lets differ: seconds and provenance."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "provenance")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", SCENARIOS)
def test_documents_are_of_the_schema_live_and_offline(runs: Any, name: str) -> None:
    one: Run = runs(name)
    validate(one.document)
    offline = agent("report", str(one.folder / "stop.core"), "--json")
    validate(offline.document)
    assert timeless(offline.document) == timeless(one.document)


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_audit_of_the_file_is_the_run_that_made_it(runs: Any, name: str) -> None:
    one: Run = runs(name)
    audited = agent("audit", "--snapshot", str(one.folder / "stop.core"), "--json")
    assert timeless(audited.document) == timeless(one.document)


def test_an_audit_of_a_run_finds_what_ci_finds(runs: Any) -> None:
    """The same stop of another boot: a panic is one for both."""
    audited = agent("audit", "--lab", "panic", "--json")
    assert audited.code == 1
    for part in ("findings", "checks"):
        mine, its = (timeless(d[part]) for d in (audited.document, runs("panic").document))
        assert mine == its


@pytest.mark.parametrize("name", SCENARIOS)
def test_text_offline_is_the_text_of_the_live_document(runs: Any, name: str) -> None:
    one: Run = runs(name)
    offline = agent("report", str(one.folder / "stop.core")).out
    live = text.render(from_json(Report, one.document), 100)
    seconds = re.compile(r"\d+\.\d+ s\b")
    assert seconds.sub("? s", offline) == seconds.sub("? s", live)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("width", [80, 160])
def test_text_fits_and_tells_every_finding(runs: Any, name: str, width: int) -> None:
    document = runs(name).document
    shown = text.render(from_json(Report, document), width)
    flat = " ".join(shown.split())
    for finding in document["findings"]:
        assert finding["code"] in shown
        assert " ".join(str(finding["summary"]).split()) in flat
    story = shown.partition("Last lines of")[0]
    assert max(map(len, story.splitlines())) <= width


@pytest.mark.parametrize("name", SCENARIOS)
def test_junit_has_each_check_and_each_finding(runs: Any, name: str) -> None:
    one: Run = runs(name)
    top = ElementTree.fromstring(one.file("r.xml"))
    cases = {(c.get("classname"), c.get("name")): c for c in top.iter("testcase")}
    stops = {s["id"]: s["reason"] for s in one.document["stops"]}
    for check in one.document["checks"]:
        key = (f"breenix-gdbagent.stop{check['stop']}.{stops[check['stop']]}", check["name"])
        case = cases[key]
        assert (case.find("failure") is not None) == (check["status"] == "failed")
        assert (case.find("skipped") is not None) == (check["status"] == "not_checked")
    told = "\n".join(f.text or "" for f in top.iter("failure"))
    for finding in one.document["findings"]:
        if finding["severity"] != "info":
            assert finding["fingerprint"] in told


@pytest.mark.parametrize("name", SCENARIOS)
def test_html_has_every_finding_and_is_small(runs: Any, name: str) -> None:
    one: Run = runs(name)
    source = one.file("r.html")
    assert len(source) < 2 << 20
    page = Page(source)
    for finding in one.document["findings"]:
        assert finding["code"] in page.text
        assert " ".join(str(finding["summary"]).split()) in page.text


def test_html_of_a_fault_has_its_backtrace(runs: Any) -> None:
    shown = Page(runs("guard-page").file("r.html")).text
    assert "Backtrace of CPU 0" in shown
    assert "#PF interrupted" in shown and "kernel::scenarios::probes::recurse" in shown


def test_every_face_names_the_callers(runs: Any) -> None:
    """The functions are those that gdb would name: of the guest's own scenario."""
    one: Run = runs("guard-page")
    (cpu,) = one.document["stops"][-1]["cpus"]
    names = [frame["name"] for frame in cpu["backtrace"]["frames"]]
    assert names[0] == "kernel::interrupts::page_fault_handler"
    assert names[1] == "kernel::scenarios::probes::recurse"
    assert any(frame["times"] > 9 for frame in cpu["backtrace"]["frames"])
    told = (text.render(from_json(Report, one.document)), one.file("r.md"), one.file("r.xml"))
    for face in told:
        assert "labguest/src/scenarios/page_faults.rs:" in face
        assert "#PF interrupted" in face


@pytest.mark.parametrize("name", [n for n in SCENARIOS if n != "clean"])
def test_markdown_is_a_write_up(runs: Any, name: str) -> None:
    one: Run = runs(name)
    heads = re.findall(r"^## (.*)$", one.file("r.md"), re.M)
    assert heads[:5] == ["Problem", "Root cause", "Evidence", "Fix", "How to confirm"]


def test_github_annotations_and_step_summary(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    one: Run = runs("kernel-stack-unmapped")
    done = agent("report", str(one.folder / "stop.core"), "--github")
    assert done.code == 1
    errors = [line for line in done.out.splitlines() if line.startswith("::error ")]
    found = [f for f in one.document["findings"] if f["severity"] == "error"]
    names = {f["fingerprint"] for f in found}
    heads = [f for f in found if not names & set(f["because"])]
    assert len(errors) == len(heads) < len(found), "a consequence stands in its cause's"
    assert summary.read_text().startswith("before\n# double-fault")


def test_diff_of_working_and_broken_points_at_the_stack(runs: Any) -> None:
    good, bad = runs("clean"), runs("kernel-stack-unmapped")
    done = agent("diff", str(good.folder / "stop.core"), str(bad.folder / "stop.core"), "--json")
    assert done.code == 1
    found = done.document
    assert {f["code"] for f in found["findings"]["new"]} >= {"kernel-stack.unmapped"}
    removed = [r for s in found["spaces"]["changed"] for r in s["removed"]]
    stack = next(
        f["evidence"] for f in bad.document["findings"] if f["code"] == "kernel-stack.unmapped"
    )
    assert [r["start"] for r in removed] == [stack["bottom"]]
    assert removed[0]["size"] == stack["pages"] * 4096
    assert any(cell["after"] == "-" for cell in found["stacks"])
    text_face = agent("diff", str(good.folder / "stop.core"), str(bad.folder / "stop.core")).out
    assert text_face.startswith("DIFFERENT: ") and stack["bottom"][2:] in text_face


def test_diff_of_a_stop_with_itself_is_nothing(runs: Any) -> None:
    path = str(runs("guard-page").folder / "stop.core")
    done = agent("diff", path, path)
    assert (done.code, done.out.splitlines()[0]) == (0, "SAME: no difference")


def test_diff_names_a_table_newly_shared(runs: Any) -> None:
    good, bad = runs("clean"), runs("shared-user-table")
    found = agent(
        "diff", str(good.folder / "stop.core"), str(bad.folder / "stop.core"), "--json"
    ).document
    assert [row["only_in"] for row in found["sharing"]] == ["b"]
    shared = next(f for f in bad.document["findings"] if f["code"] == "shared-table.user")
    names = {s["name"] for s in shared["evidence"]["spaces"]}
    assert set(found["sharing"][0]["spaces"]) == names


def test_log_of_the_snapshot_and_around_the_fault(runs: Any) -> None:
    path = str(runs("kernel-stack-unmapped").folder / "stop.core")
    done = agent("log", path, r"Created process (\w+)")
    assert done.code == 0 and len(done.out.splitlines()) >= 3
    around = agent("log", path, "--around", "double-fault", "-C", "2")
    assert around.code == 0 and around.out.splitlines()[-1].startswith("--- stop ")
    assert agent("log", path, "no such words").code == 1


def test_log_follows_a_guest_to_its_marker() -> None:
    ran = agent("log", "--lab", "clean", "Process management")
    assert ran.code == 0, ran.err
    assert [line for line in ran.out.splitlines() if "Process management initialized" in line]
    done = agent("log", "--lab", "clean", "--follow", "--until", "LAB COMPLETE", "--timeout", "60")
    assert done.code == 0
    assert done.out.splitlines()[-1].endswith("kernel: LAB COMPLETE")
    assert "Hello from userspace!" in done.out


def test_a_full_disk_takes_the_files_and_not_the_report(tmp_path: Path) -> None:
    """Nobody runs it twice at night: what could not be written is said, the findings are there."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("no right to mount a small disk here")
    try:
        one = agent(
            "ci", "--lab", "panic", "--json", "-o", str(tmp_path / "stop.core"),
            "--html", str(tmp_path / "r.html"),
        )  # fmt: skip
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert one.code == 3
    assert [f["code"] for f in one.document["findings"]] == ["panic"]
    assert "No space left" in one.err


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    started = Browser()
    yield started
    started.close()


@needs_chromium
@pytest.mark.xdist_group("chromium")
@pytest.mark.parametrize("name", ["kernel-stack-unmapped", "guard-page"])
def test_html_of_a_run_in_a_browser(runs: Any, browser: Browser, name: str) -> None:
    one: Run = runs(name)
    browser.said.clear()
    browser.open(one.folder / "r.html")
    assert browser.said == []
    assert browser.value("performance.now()") < 5000
    codes = browser.value(
        "[...document.querySelectorAll('article.finding h3')].map(h => h.innerText)"
    )
    assert sorted(codes) == sorted(f["code"] for f in one.document["findings"])
