"""docs/from-a-fault-to-its-line.md, followed as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.guest.live_support import needs_qemu

pytestmark = needs_qemu

PAGE = Path(__file__).parents[2] / "docs" / "from-a-fault-to-its-line.md"
NUMBERS = re.compile(r"0x[0-9a-f_]+|\d[\d,]*(?:\.\d+)?")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.S)


def alike(text: str) -> str:
    """Without what differs from one run to another: numbers and how much room they take."""
    return " ".join(NUMBERS.sub("N", text).split())


def run(words: list[str], place: Path) -> str:
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        words, cwd=place, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_the_page_is_what_one_sees(tmp_path: Path) -> None:
    """Each line that it shows comes in the command's output, in that order, but for numbers. What
    an address is in this run is put where the page has its own."""
    entry = ""
    for block in blocks("console"):
        command, *expected = block.strip().splitlines()
        words = shlex.split(command.removeprefix("$ "))
        if words[1] == "who-wrote":
            words[3] = entry
        answer = run([sys.executable, "-m", "breenix_gdbagent", *words[1:]], tmp_path)
        rest = alike(answer)
        for line in expected:
            _, found, rest = rest.partition(alike(line))
            assert found, f"{command}\nlacks: {line}\n{answer}"
        changed = re.findall(r"writes +physical (0x[0-9a-f]+)", answer)
        entry = changed[1] if len(changed) > 1 else entry


def test_its_python_runs(tmp_path: Path) -> None:
    run([sys.executable, "-m", "breenix_gdbagent", "record", "--lab", "kernel-stack-unmapped",
         "-o", "run"], tmp_path)  # fmt: skip
    (source,) = blocks("python")
    assert "remove_own_stack" in run([sys.executable, "-c", source], tmp_path)
