"""The files for others' CI, as far as they can be run here: their scripts, on the lab guest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
MADE = ("fault.snapshot", "report.html", "junit.xml", "findings.sarif")


def action() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "ci" / "action.yml").read_text())
    return loaded


def gitlab() -> tuple[dict[str, Any], dict[str, Any]]:
    spec, jobs = yaml.safe_load_all((ROOT / "ci" / "gitlab.yml").read_text())
    return spec["spec"]["inputs"], jobs


def test_the_action_is_composite_and_uses_what_it_declares() -> None:
    found, text = action(), (ROOT / "ci" / "action.yml").read_text()
    assert found["runs"]["using"] == "composite"
    for step in found["runs"]["steps"]:
        assert ("run" in step) != ("uses" in step) and (
            "run" not in step or step["shell"] == "bash"
        )
        assert "${{" not in step.get("run", ""), (
            "an input in a script is a way in for whoever sets it"
        )
    for name, declared in found["inputs"].items():
        assert declared["description"] and isinstance(declared["default"], str)
        assert f"inputs.{name}" in text.partition("runs:")[2]


def test_the_template_uses_what_it_declares() -> None:
    inputs, jobs = gitlab()
    text = (ROOT / "ci" / "gitlab.yml").read_text().partition("---")[2]
    assert all(f"$[[ inputs.{name} ]]" in text for name in inputs)
    (job,) = jobs.values()
    assert job["artifacts"]["reports"]["junit"] == "breenix-gdbagent/junit.xml"


def run_script(
    script: str, settings: dict[str, str], where: Path
) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=where, env={**os.environ, "PATH": path, **settings},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def files_are_whole(directory: Path) -> None:
    assert all((directory / name).stat().st_size for name in MADE)
    ElementTree.parse(directory / "junit.xml")
    schema = json.loads((ROOT / "tests" / "schemas" / "sarif-2.1.0.json").read_text())
    found = json.loads((directory / "findings.sarif").read_text())
    jsonschema.Draft4Validator(schema).validate(found)
    (run,) = found["runs"]
    guard = next(r for r in run["results"] if r["ruleId"] == "page-fault.guard-page")
    place = guard["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"].endswith("scenarios/probes.rs")
    assert place["region"]["startLine"] > 0
    assert guard["stacks"][0]["frames"]


def test_the_actions_script_on_a_fault(tmp_path: Path) -> None:
    found = action()
    (step,) = [s for s in found["runs"]["steps"] if s.get("id") == "run"]
    inputs = {name: one["default"] for name, one in found["inputs"].items()}
    inputs |= {
        "target": "--lab guard-page",
        "until": "no such text, ever",
        "arguments": "--deterministic",
    }
    settings = {
        key: inputs[value.removeprefix("${{ inputs.").removesuffix(" }}")]
        for key, value in step["env"].items()
    }
    (tmp_path / "out").touch()
    settings |= {
        "GITHUB_OUTPUT": str(tmp_path / "out"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "md"),
    }
    done = run_script(step["run"], settings, tmp_path)
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "out").read_text() == "exit=1\n"
    assert "::error" in done.stdout and "guard" in (tmp_path / "md").read_text()
    files_are_whole(tmp_path / "breenix-gdbagent")


@pytest.mark.parametrize(("scenario", "code"), [("guard-page", 1)])
def test_the_templates_script(scenario: str, code: int, tmp_path: Path) -> None:
    inputs, jobs = gitlab()
    (job,) = jobs.values()
    given = {name: str(one["default"]) for name, one in inputs.items()}
    given |= {"target": f"--lab {scenario}"}
    settings = {
        key: given[value.removeprefix("$[[ inputs.").removesuffix(" ]]")]
        for key, value in job["variables"].items()
    }
    done = run_script("\n".join(job["script"]), settings, tmp_path)
    assert done.returncode == code, done.stderr
    files_are_whole(tmp_path / "breenix-gdbagent")
