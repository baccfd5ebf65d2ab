"""`make thorough` is there for who asks for it, and nothing else runs it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def planned(target: str) -> str:
    """What `make` would run for a target, were nothing made yet."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    command = ["make", "-n", "-B", "-C", str(ROOT), target]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_only_thorough_is_thorough() -> None:
    assert "pytest tests/thorough" in planned("thorough")
    for target in ("test", "check", "setup"):
        assert "thorough" not in planned(target), target
    ci = ROOT / ".ci" / "run"
    assert not ci.exists() or "thorough" not in ci.read_text()


def test_the_help_names_it() -> None:
    planned("help")
    told = subprocess.run(
        ["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True
    ).stdout
    assert "make thorough" in told
