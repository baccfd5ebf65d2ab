"""What is written to a terminal: control characters, serial pieces, cut lines, the pager's turn."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.utils import get_cwidth

from breenix_gdbagent.commands.shell.screen import Screen, bare, clipped


def never(line: str) -> bool:
    return False


@given(st.text(st.characters(exclude_categories=("C", "M")), max_size=60), st.integers(1, 40))
def test_a_cut_line_fits(text: str, width: int) -> None:
    """prompt_toolkit's own measure is the judge."""
    cut = clipped(text, width)
    assert get_cwidth(cut) <= width
    assert cut == text or cut.endswith("…")
    assert text.startswith(cut.removesuffix("…")) or cut == text


def test_a_character_that_became_wide_after_this_python() -> None:
    """U+1D300 is wide since Unicode 16, which no Python before 3.14 knows."""
    assert clipped("0\U0001d300", 2) == "0…"


def test_colours_survive_a_cut() -> None:
    assert clipped("\x1b[1mabcdef\x1b[0m", 4) == "\x1b[1mabc\x1b[0m\x1b[0m…"
    assert bare(clipped("\x1b[1mabcdef\x1b[0m", 4)) == "abc…"


def test_the_guest_does_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.write("a\x1b]0;title\x07b\x1b[2Jc\x9bd\x00e\ttab")
    assert capsys.readouterr().out == "a?]0;title?b?[2Jc?d?e\ttab\n"


def test_serial_text_comes_in_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.serial(0, "one\r\ntw", never)
    assert capsys.readouterr().out == "one\n"
    screen.serial(1, "other\n", never)
    screen.serial(0, "o\n", never)
    assert capsys.readouterr().out == "COM2: other\ntwo\n"
    screen.serial(0, "rest", never)
    screen.flush_serial(never)
    assert capsys.readouterr().out == "rest\n"
    assert screen.last_line == "two"


def test_what_is_hidden_stays_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    """Also when the guest stops in the middle of such a line."""

    def hide(line: str) -> bool:
        return line.startswith("@")

    screen = Screen()
    screen.serial(0, "@first\nshown\n@sec", hide)
    screen.flush_serial(hide)
    screen.serial(0, "ond\nalso\n", hide)
    assert capsys.readouterr().out == "shown\nalso\n"
    assert screen.last_line == "also"


def test_a_pipe_gets_everything_and_no_pager(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    with screen.paged():
        for number in range(500):
            sys.stdout.write(f"{number}\n")
    assert capsys.readouterr().out.count("\n") == 500


def test_the_width_of_a_pipe_is_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert Screen().width == 77
    monkeypatch.setenv("COLUMNS", "wide")
    assert Screen().width == 100
    monkeypatch.delenv("COLUMNS")
    assert Screen().width == 100


@pytest.mark.parametrize("term", ["", "dumb", "unknown"])
def test_dumb_terminals_get_no_colours(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    monkeypatch.setenv("TERM", term)
    screen = Screen(terminal=True)
    assert screen.dumb and not screen.ink.on
    monkeypatch.setenv("TERM", "xterm")
    assert Screen(terminal=True).ink.on
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Screen(terminal=True).ink.on
