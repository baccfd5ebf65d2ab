"""NO_COLOR and FORCE_COLOR, in every command that paints."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from breenix_gdbagent.commands import run
from breenix_gdbagent.commands.output import coloured
from tests.unit.commands.test_formats import snapshot  # noqa: F401


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("no", "force", "term", "terminal", "pipe"),
    [
        ("", "", "xterm", True, False), ("1", "", "xterm", False, False),
        ("", "1", "xterm", True, True), ("1", "1", "xterm", False, False),
        ("", "", "dumb", False, False), ("", "1", "dumb", True, True),
    ],
)  # fmt: skip
def test_who_decides(
    no: str, force: str, term: str, terminal: bool, pipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("NO_COLOR", no), ("FORCE_COLOR", force), ("TERM", term)):
        monkeypatch.setenv(name, value)
    assert (coloured(Terminal()), coloured(io.StringIO())) == (terminal, pipe)


@pytest.mark.parametrize("command", ["report {}", "audit --snapshot {}", "diff {} {}"])
def test_the_words_are_the_same(
    command: str,
    snapshot: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = command.format(snapshot, snapshot).split()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    run(words)
    plain = capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(words)
    painted = capsys.readouterr().out
    times = r"\d+\.\d+ s"
    bare = re.sub(r"\x1b\[[0-9;]*m", "", painted)
    assert "\x1b" not in plain and re.sub(times, "", bare) == re.sub(times, "", plain)
    assert "\x1b[" in painted or command.startswith("diff")
