"""What a user hears of a read that lasts."""

from __future__ import annotations

import pytest

from breenix_gdbagent.commands import progress
from breenix_gdbagent.commands.progress import SlowRead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def sweep(told: SlowRead, clock: list[float], seconds: float) -> None:
    """1 GiB in 64 pieces."""
    for piece in range(64):
        told(piece << 24, 1 << 30)
        clock[0] += seconds / 64
    told(1 << 30, 1 << 30)


def test_a_quick_read_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    sweep(SlowRead(), clock, 1.9)
    assert capsys.readouterr() == ("", "")


def test_a_slow_read_says_once_what_and_how_long_and_what_is_faster(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    told = SlowRead()
    sweep(told, clock, 20)
    sweep(told, clock, 20)
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "reading 1024 MiB of RAM" in line and "18 s more" in line
    assert "--qmp" in line and "--ram" in line
    assert "\r" not in err


def test_on_a_terminal_it_counts_and_leaves_no_trace(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    sweep(SlowRead(), clock, 20)
    err = capsys.readouterr().err
    assert err.count("of RAM through the gdbstub") == 1
    assert err.count("\r  ") > 10
    assert err.endswith("\r\x1b[K")
