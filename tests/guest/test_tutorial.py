"""The tutorial and the how-tos of docs/, followed from their first line to their last."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.guest.live_support import needs_qemu
from tests.guest.test_time_docs import alike, run

pytestmark = needs_qemu

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("your-first-double-fault", "howto-shell", "howto-ci", "howto-snapshot")


def commands_of(page: Path) -> list[tuple[str, list[str]]]:
    """Each command of a page, with the lines that it shows of the answer."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text("utf-8"), re.S):
        for line in block.strip("\n").splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_one_sees(name: str, tmp_path: Path) -> None:
    """Each line that it shows comes in the command's output, in that order, but for numbers."""
    commands = commands_of(DOCS / f"{name}.md")
    assert commands
    for command, expected in commands:
        words = shlex.split(command)
        assert words[0] == "breenix-gdbagent"
        answer = run([sys.executable, "-m", "breenix_gdbagent", *words[1:]], tmp_path)
        rest = alike(answer)
        for line in expected:
            _, found, rest = rest.partition(alike(line))
            assert found, f"{command}\nlacks: {line}\n{answer}"


def test_the_python_of_the_how_to_runs(tmp_path: Path) -> None:
    text = (DOCS / "howto-python.md").read_text("utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert run([sys.executable, "-c", source], tmp_path).strip() == "['page-fault.guard-page']"
