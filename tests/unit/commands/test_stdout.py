"""Readers that leave, disks that are full: the exit code stays the command's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

AGENT = [sys.executable, "-m", "breenix_gdbagent"]


@pytest.mark.parametrize(("words", "code"), [(("lab",), 0), (("explain", "--list"), 0)])
def test_a_reader_that_leaves_is_no_failure(words: tuple[str, ...], code: int) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [*AGENT, *words], stdout=theirs, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_stdout_is_said() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*AGENT, "lab"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1 and b"No space left on device" in done.stderr


def test_an_unknown_scenario_names_the_nearest() -> None:
    done = subprocess.run(
        [*AGENT, "lab", "guard-pag"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no scenario 'guard-pag'" in done.stderr and "did you mean guard-page?" in done.stderr
