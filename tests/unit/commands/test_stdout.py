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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_stderr_leaves_the_exit_code() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*AGENT, "nosuch"], stdout=subprocess.PIPE, stderr=full, timeout=60, check=False
        )
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("closed", "words", "code", "told"),
    [
        ("<&-", "explain -", 1, b""),
        ("<&-", "pt walk -", 2, b""),
        (">&-", "lab", 3, b"the answer cannot be written"),
        ("2>&-", "nosuch", 2, b""),
        ("<&- 2>&-", "explain 0x6", 0, b""),
        ("<&- >&- 2>&-", "lab", 3, b""),
    ],
)
def test_a_stream_that_whoever_started_us_has_closed(
    closed: str, words: str, code: int, told: bytes, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    target = f"--snapshot {tmp_path}/empty" if words.startswith("pt") else ""
    line = f'"$0" -m breenix_gdbagent {words} {target} {closed}'
    done = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert told in done.stderr and b"Traceback" not in done.stderr and b"defect" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("ci", "--lab", "--until", ""),
        ("ci", "--lab", "--until="),
        ("ci", "--lab", "--config", ""),
        ("ci", "--lab", "--expect", "panic@"),
        ("audit", "--snapshot", "x", "--ram-size", ""),
        ("report", "x", "--html", ""),
    ],
)
def test_an_empty_value_is_an_unset_variable_and_refused(words: tuple[str, ...]) -> None:
    done = subprocess.run([*AGENT, *words], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "empty" in done.stderr or "no process after the @" in done.stderr


def test_log_reads_a_pipe_once_and_no_device(tmp_path: Path) -> None:
    piped = subprocess.run(
        [*AGENT, "log", "/dev/stdin"],
        input=b"booting\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert piped.returncode == 0 and b"booting" in piped.stdout
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    lonely = subprocess.run(
        [*AGENT, "log", str(fifo)], capture_output=True, timeout=20, check=False
    )
    assert lonely.returncode == 1
    endless = subprocess.run(
        [*AGENT, "log", "/dev/zero"], capture_output=True, timeout=20, check=False
    )
    assert endless.returncode == 2 and b"neither a file nor a pipe" in endless.stderr


def test_an_unknown_scenario_names_the_nearest() -> None:
    done = subprocess.run(
        [*AGENT, "lab", "guard-pag"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no scenario 'guard-pag'" in done.stderr and "did you mean guard-page?" in done.stderr
