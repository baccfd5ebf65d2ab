"""What a signal raises is told as that, wherever it came."""

from __future__ import annotations

import pytest

from breenix_gdbagent import commands
from breenix_gdbagent.errors import Note


def test_only_our_own_notes_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python from 3.14 on notes where a class statement was when it was struck."""
    ended = KeyboardInterrupt()
    ended.add_note("Error calling __set_name__ on something")
    ended.add_note(Note("the guest stood at 0x10"))

    def dispatch(argv: list[str]) -> int:
        raise ended

    monkeypatch.setattr(commands, "_dispatch", dispatch)
    monkeypatch.setattr(commands, "_give_up_stdout", lambda: None)
    assert commands.run([]) == 3
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "breenix-gdbagent: interrupted; nothing is left running",
        "  the guest stood at 0x10",
    ]


class _Struck:
    """A class attribute at whose naming a signal comes: the class statement wraps it."""

    def __init__(self, ended: BaseException) -> None:
        self._ended = ended

    def __set_name__(self, owner: type, name: str) -> None:
        raise self._ended


@pytest.mark.parametrize(
    ("ended", "word"),
    [(KeyboardInterrupt(), "interrupted"), (SystemExit(commands.TERMINATED), "terminated")],
)
def test_a_signal_in_a_class_body(
    ended: BaseException,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def dispatch(argv: list[str]) -> int:
        type("Late", (), {"attribute": _Struck(ended)})
        return 0

    monkeypatch.setattr(commands, "_dispatch", dispatch)
    monkeypatch.setattr(commands, "_give_up_stdout", lambda: None)
    assert commands.run([]) == 3
    assert capsys.readouterr().err == f"breenix-gdbagent: {word}; nothing is left running\n"
