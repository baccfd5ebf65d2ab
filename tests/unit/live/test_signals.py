"""A Ctrl-C is never lost, whenever it comes."""

from __future__ import annotations

import select
import signal
from collections.abc import Iterator

import pytest

from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
from breenix_gdbagent.debugger.user_breakpoints import checkpoint_of
from breenix_gdbagent.live import signals
from breenix_gdbagent.live.signals import Interrupts, Uncut
from tests.unit.debugger.fakeguest import TRAP, FakeGuest, debugged

HIT = 0x8000005000


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_one_that_comes_while_the_handlers_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = signals._restore

    def late(before: list[tuple[signal.Signals, object]]) -> None:
        if before:
            signal.raise_signal(signal.SIGINT)
        restore(before)  # type: ignore[arg-type]

    monkeypatch.setattr(signals, "_restore", late)
    with pytest.raises(KeyboardInterrupt), Uncut():
        pass


def test_a_wait_wakes_before_the_handler_has_run() -> None:
    """Whatever the signal: it is C that makes the socket readable, no handler of ours."""
    with Interrupts() as interrupts:
        handler = signal.signal(signal.SIGUSR1, lambda *_: None)
        try:
            signal.raise_signal(signal.SIGUSR1)
            assert select.select([interrupts.wake], [], [], 0)[0]
            interrupts.drain()
            assert not select.select([interrupts.wake], [], [], 0)[0]
            assert not interrupts.noted
        finally:
            signal.signal(signal.SIGUSR1, handler)


@pytest.mark.parametrize("points", [1, 0])
def test_one_that_comes_as_the_guest_stops_by_itself(
    points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a checkpoint, which is passed, or at a stop that would decide the run."""
    fake = FakeGuest([(TRAP, HIT), None])
    with debugged(fake) as debugger:
        if points:
            debugger.add(checkpoint_of(f"{HIT:#x}", None, debugger.table.number()))
        wait = debugger.vm.stub.wait
        waits = 0

        def interrupted(*given: object) -> object:
            """The first wait ends for the signal; the stop is there when we interrupt."""
            nonlocal waits
            waits += 1
            if waits > 1:
                return wait(*given)  # type: ignore[arg-type]
            signal.raise_signal(signal.SIGINT)
            return None

        monkeypatch.setattr(debugger.vm.stub, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            GuardedRun(debugger, Orders(timeout=5)).go()
        assert fake.seen.count(b"vCont;c") == 1
