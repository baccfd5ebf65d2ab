"""What a package index would show, and what the README and errors promise of one."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

from breenix_gdbagent.version import VERSION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

FROM_INDEX = re.compile(r"pipx? install[^\n`]*(?<![/.\w])'?breenix[_-]gdbagent(?!/)")
"""An install of the agent by its name; a path to it is none."""


def test_the_version_is_the_changelogs_newest() -> None:
    """Between releases ``X.devN``, and the heading says "unreleased"."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"(?m)^## (\S+)( \(unreleased\))?$", text)
    assert first is not None
    number, _, development = VERSION.partition(".dev")
    assert number == first[1]
    assert bool(development) == (first[2] is not None)


def test_the_changelog_goes_down() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    numbers = [tuple(map(int, found.split("."))) for found in re.findall(r"(?m)^## ([\d.]+)", text)]
    assert len(numbers) > 1 and numbers == sorted(set(numbers), reverse=True)


def test_an_index_shows_who_what_and_where() -> None:
    """As the built package says it, not as the file does: hatchling checks each classifier."""
    shown = metadata("breenix_gdbagent")
    assert "Author-email" not in shown
    assert shown["Author"] == "the breenix_gdbagent developers"
    assert shown["License-Expression"] == "MIT"
    assert shown["Keywords"] and shown.get_all("Project-URL")
    assert set(PROJECT["classifiers"]) == set(shown.get_all("Classifier") or ())
    assert version("breenix_gdbagent") == VERSION


def test_the_lowest_python_is_among_those_tried() -> None:
    tried = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if ":: Python :: 3." in one]
    assert PROJECT["requires-python"] == f">={tried[0]}"
    assert tried == [f"3.{11 + n}" for n in range(len(tried))]


def test_nothing_promises_an_install_from_an_index() -> None:
    places = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")),
              *sorted((ROOT / "breenix_gdbagent").rglob("*.py"))]  # fmt: skip
    assert [p.name for p in places if FROM_INDEX.search(p.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("text", "promise"),
    [
        ("pipx install breenix_gdbagent", True),
        ("pip install 'breenix_gdbagent[gdb]'", True),
        ("pip install -U breenix-gdbagent", True),
        ("pipx install ./breenix_gdbagent", False),
        ("pip install pygdbmi", False),
    ],
)
def test_a_promise_is_seen(text: str, promise: bool) -> None:
    assert bool(FROM_INDEX.search(text)) is promise
