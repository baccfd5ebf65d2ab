"""A kept report is given again by the code that made it, and by no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from breenix_gdbagent.snapshot import agent as room

PROJECT = Path(__file__).parents[2]
SAVE = """
import sys
from dataclasses import replace
from pathlib import Path
import breenix_gdbagent
from breenix_gdbagent.run_report import finish, save
from breenix_gdbagent.checks.run import RunFacts
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.document import History, RunRecord
from tests.writers.machine import Machine

assert breenix_gdbagent.__file__.startswith(sys.argv[2]), breenix_gdbagent.__file__
machine = Machine()
kernel = Kernel(machine.fault(14, 0x8000001000, error=0, cr2=0x8))
parts = ({"kind": "lab"}, RunRecord(), RunFacts(), History())
told = finish(kernel, *parts)
first = replace(told.findings[0], title="as it was told when it was saved")
told = replace(told, findings=(first, *told.findings[1:]))
save(Path(sys.argv[1]), kernel, "tables", *parts, {}, told)
"""


def python(place: Path, *arguments: str) -> str:
    """What Python prints with the package that lies in `place`."""
    found = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{PROJECT}"},
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode in (0, 1) and not found.stderr, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package in it, which a test may change and puts back."""
    place = tmp_path_factory.mktemp("other")
    ignored = shutil.ignore_patterns("__pycache__", "*.elf")
    shutil.copytree(room.PACKAGE, place / "breenix_gdbagent", ignore=ignored)
    return place


KEPT = "as it was told when it was saved"


def saved(package: Path) -> Path:
    """A stop whose kept report has a title of its own, by which it is known from one made anew."""
    file = package / "stop.core"
    python(package, "-c", SAVE, str(file), str(package))
    return file


def title_in(package: Path) -> str:
    """The title of the finding, as ``report`` of the package has it."""
    text = python(package, "-m", "breenix_gdbagent", "report", str(package / "stop.core"))
    first = next(line for line in text.splitlines() if line.startswith("ERROR page-fault.null"))
    return first.split(None, 2)[2]


def test_after_a_text_was_changed_the_new_one_is_told(package: Path) -> None:
    saved(package)
    assert title_in(package) == KEPT
    sources = {p: p.read_text(encoding="utf-8") for p in package.rglob("*.py")}
    wording, text = next(
        (path, text) for path, text in sources.items() if "access through a null pointer" in text
    )
    wording.write_text(text.replace("a null pointer", "a pointer to nowhere"), encoding="utf-8")
    assert "through a pointer to nowhere" in title_in(package)
    wording.write_text(text, encoding="utf-8")
    assert title_in(package) == KEPT


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_any_module_more_or_less_is_another_agent(package: Path, change: str) -> None:
    saved(package)
    there, other = (package / "breenix_gdbagent/selftest" / n for n in ("matrix.py", "m2.py"))
    code = there.read_bytes()
    if change == "added":
        other.write_bytes(b"")
    elif change == "removed":
        there.unlink()
    else:
        there.rename(other)
    assert title_in(package) != KEPT
    other.unlink(missing_ok=True)
    there.write_bytes(code)
    assert title_in(package) == KEPT


def test_a_process_whose_code_was_changed_under_it_keeps_no_report(package: Path) -> None:
    """What it says is of the code that it loaded, which is in no file any more."""
    place = package / "breenix_gdbagent/version.py"
    stamp = place.stat()
    os.utime(place, (stamp.st_atime, time.time() + 60))
    saved(package)
    assert title_in(package) != KEPT
    os.utime(place, (stamp.st_atime, stamp.st_mtime))
    saved(package)
    assert title_in(package) == KEPT


def test_another_decoder_is_another_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = room.agent()
    assert ours is not None and room._decoders()
    monkeypatch.setattr(room, "_decoders", lambda: ["capstone-9.9.dist-info"])
    assert room.agent() != ours


def test_code_that_lies_in_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room, "PACKAGE", tmp_path / "package.zip" / "breenix_gdbagent")
    assert room.agent() is None
    assert room.changed_since_start()
