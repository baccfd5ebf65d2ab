"""Where the faces of a report go: files, or one of them to stdout."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from breenix_gdbagent.checks.run import RunFacts
from breenix_gdbagent.commands import run
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.document import History, RunRecord
from breenix_gdbagent.run_report import save
from tests.writers.machine import Machine


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faces") / "stop.core"
    kernel = Kernel(Machine().fault(14, 0x80_0000_1000, error=0, cr2=0x8))
    save(path, kernel, "tables", {"kind": "lab"}, RunRecord(seconds=2.5), RunFacts(), History(), {})
    return path


@pytest.mark.parametrize(
    ("option", "begins"),
    [("--junit", "<?xml "), ("--markdown", "# "), ("--html", "<!doctype html>")],
)
def test_a_dash_is_stdout_and_no_file(
    snapshot: Path,
    option: str,
    begins: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["report", str(snapshot), option, "-", "--github"]) == 1
    told = capsys.readouterr()
    assert told.out.lower().startswith(begins)
    assert "::error" in told.err and "::error" not in told.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "asked",
    [
        ["--junit", "-", "--json"],
        ["--junit", "-", "--markdown", "-"],
        ["--html", "-", "--markdown"],
        ["--html", "-", "--junit", "-"],
    ],
)
def test_two_answers_on_one_stream_are_refused(
    snapshot: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(snapshot), *asked]) == 2
    told = capsys.readouterr()
    assert not told.out and "would both go to stdout" in told.err


@pytest.mark.parametrize("option", ["-o", "--write-baseline"])
def test_what_is_for_a_file_makes_none_of_that_name(
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["ci", "--lab", "clean", option, "-"]) == 2
    assert "- is no file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_comparison_makes_no_file_of_that_name(
    snapshot: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["diff", str(snapshot), str(snapshot), "--html", "-"]) == 2
    assert "- is no file" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_junit_on_stdout_is_of_this_run(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["report", str(snapshot), "--junit", "-"])
    suite = ElementTree.fromstring(capsys.readouterr().out)[0]
    assert float(suite.get("time") or 0) == 2.5
    assert suite.get("hostname") and (suite.get("timestamp") or "")[10] == "T"
    run(["report", str(snapshot), "--json"])
    assert len(json.loads(capsys.readouterr().out)["checks"]) + 1 == int(suite.get("tests") or 0)
