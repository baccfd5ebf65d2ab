"""The shell without a terminal: what a log of its answers and errors says, in which order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.guest.live_support import needs_qemu

pytestmark = needs_qemu

BATCH = """\
# a comment
tbreak kernel_main

continue
bogus
list 41
print no.such
who rsp
who 0x8000000000
walk
walk --help
break 42
"""


def test_one_log_of_answers_and_errors(tmp_path: Path) -> None:
    """stdout and stderr in one file: each error stands where its answer would, names its command
    and its line, and speaks of the shell's own commands."""
    batch = tmp_path / "commands"
    batch.write_text(BATCH)
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-m", "breenix_gdbagent", "shell", "--lab", "clean", "--batch", batch],
            stdout=log, stderr=subprocess.STDOUT, timeout=120, check=False,
        )  # fmt: skip
    said = (tmp_path / "log").read_text()
    rsp = re.search(r" rsp (0x[0-9a-f]+) ", said)
    assert rsp is not None, said
    assert done.returncode == 2, said
    wanted = [
        "1: breakpoint at kernel_main",
        "#0  ",
        f"{batch}:5: bogus: no command 'bogus'",
        "src/main.rs:41\n",
        ">   41 ",
        f"{batch}:7: print no.such: no symbol 'no'",
        f"rsp is the virtual address {rsp[1]}, physical 0x",
        "physical 0x8000000000: no RAM",
        "as a virtual address it leads to physical 0x",
        f"{batch}:10: walk: the following arguments are required: va\n  see: help walk\n",
        "walk VA [ROOT]\n",
        "main.rs:42",
    ]
    at = 0
    for text in wanted:
        found = said.find(text, at)
        assert found >= 0, f"{text!r} is not below what came before it:\n{said}"
        at = found + len(text)


def test_errors_of_dash_c_name_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "breenix_gdbagent", "shell", "--lab", "clean", "-c", "list 12"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("list 12: 12 is a line number, and the CPU stands in no source")
    assert "0xc" in done.stderr
