"""One hunt over TCP by two workers, each a process with directories of its own."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from breenix_gdbagent.lab import elf
from tests.guest.labrun import agent

pytest.importorskip("distributed", reason="the extra [hunt] is not installed")


def started(stack: ExitStack, *arguments: str, cache: Path) -> subprocess.Popen[str]:
    """A process of Dask's, ended when the test is."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"},
    )

    def ended() -> None:
        process.kill()
        process.communicate()

    stack.callback(ended)
    return process


def said(process: subprocess.Popen[str], pattern: str) -> str:
    """The first group of the pattern in what it says on stderr."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"ended without {pattern}")


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """The address of a scheduler with two workers."""
    with ExitStack() as stack:
        process = started(
            stack, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
            "--no-dashboard", cache=tmp_path,
        )  # fmt: skip
        address = said(process, r"Scheduler at:\s+(tcp://\S+)")
        for name in ("one", "two"):
            worker = started(
                stack, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny",
                "--no-dashboard", "--local-directory", str(tmp_path / name / "scratch"),
                cache=tmp_path / name,
            )  # fmt: skip
            said(worker, r"(Registered to)")
        yield address


def test_two_workers_run_one_hunt(scheduler: str, tmp_path: Path) -> None:
    kernel = elf(stripped=True)
    place = tmp_path / "hunt"
    made = agent(
        "hunt", "--config", "lab", "--kernel", str(kernel), "--boots", "6",
        "--scheduler", scheduler, "-o", str(place), "--json",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert made.document["boots"] == 6
    assert made.document["engine"] == f"dask {scheduler}"
    with sqlite3.connect(place / "hunt.sqlite") as database:
        workers = database.execute("select distinct worker from boots").fetchall()
    assert len(workers) == 2
    digest = hashlib.sha256(kernel.read_bytes()).hexdigest()
    for name in ("one", "two"):
        held = tmp_path / name / "breenix-gdbagent" / "files" / digest / kernel.name
        assert held.read_bytes() == kernel.read_bytes()


def test_a_scheduler_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    place = tmp_path / "hunt"
    refused = agent("hunt", "--lab", "--scheduler", "tcp://127.0.0.1:1", "-o", str(place))
    assert (refused.code, refused.out) == (3, "")
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in refused.err
    assert not place.exists()
