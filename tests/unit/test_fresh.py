"""`make fresh` refuses in one sentence what it cannot do; what it does takes root and minutes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "fresh.sh"


def _refused(suite: str, path: str = os.environ["PATH"]) -> str:
    done = subprocess.run(
        ["sh", str(SCRIPT), suite], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("suite", ["../trixie", "trixie;reboot", "Trixie 13", "/"])
def test_a_suite_that_is_none(suite: str) -> None:
    assert "SUITE is a Debian release" in _refused(suite)


def test_without_root(tmp_path: Path) -> None:
    nobody = tmp_path / "id"
    nobody.write_text("#!/bin/sh\necho 65534\n")
    nobody.chmod(0o755)
    line = _refused("trixie", f"{tmp_path}:{os.environ['PATH']}")
    assert "sudo make fresh SUITE=trixie" in line
