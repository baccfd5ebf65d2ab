"""``diff`` as a command: what it refuses, and in which form."""

from __future__ import annotations

from pathlib import Path

import pytest

from breenix_gdbagent.commands import run
from tests.unit.captures import capture


@pytest.mark.parametrize(
    "arguments", [[], ["A"], ["A", "/nonexistent"], ["A", "TEXT"], ["A", "A", "--html", "/no/x"]]
)
def test_refusals(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.write_text("no core\n")
    names = {"A": str(capture("breenix-first-gp") / "core.elf"), "TEXT": str(text)}
    assert run(["diff", *(names.get(a, a) for a in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and 1 <= len(captured.err.splitlines()) <= 3


def test_bare_cores_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (
        str(capture(n) / "core.elf") for n in ("breenix-seed-syscall", "breenix-first-gp")
    )
    page = tmp_path / "diff.html"
    assert run(["diff", one, one, "--ram-size", "512M"]) == 0
    assert capsys.readouterr().out.startswith("SAME: ")
    assert run(["diff", one, other, "--ram-size", "512M", "--html", str(page)]) == 1
    assert capsys.readouterr().out.startswith("DIFFERENT: ")
    assert ">core.elf against core.elf</h1>" in page.read_text(encoding="utf-8")
