"""Signals while we hold a guest: Ctrl-C stops the guest and not us, SIGTERM ends us in order."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

TERMINATED = 128 + signal.SIGTERM
"""Exit status after SIGTERM, as a shell gives it."""

_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class Interrupts:
    """While active in the main thread, SIGINT and SIGTERM are only noted, and wake `wake`: no
    packet is cut in two by an exception. A second SIGINT is KeyboardInterrupt as ever.

    In another thread it does nothing.
    """

    def __init__(self) -> None:
        self.seen = False
        self.terminated = False
        self.wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._before: list[tuple[signal.Signals, _Handler]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before.append((number, signal.signal(number, self._note)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _restore(self._before)
        self.wake.close()
        self._waker.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.terminated = True
        elif self.seen:
            raise KeyboardInterrupt
        self.seen = True
        with suppress(BlockingIOError):
            self._waker.send(b"!")


class Uncut:
    """While active in the main thread, SIGINT and SIGTERM wait until it ends, and are raised
    then: a conversation is not left in the middle of an answer. A second SIGINT does not wait.
    """

    __slots__ = ("_before", "_noted")

    def __init__(self) -> None:
        self._before: list[tuple[signal.Signals, _Handler]] = []
        self._noted = 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before.append((number, signal.signal(number, self._note)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        noted = self._noted
        _restore(self._before)
        if noted == signal.SIGTERM and signal.getsignal(noted) is signal.SIG_DFL:
            # Its default would end us on the spot, with the guest in our hands.
            raise SystemExit(TERMINATED)
        if noted:
            # As if it came now: whoever handles it outside does so.
            signal.raise_signal(noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._noted == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = max(self._noted, number)


class Termination:
    """SIGTERM as SystemExit while active in the main thread, so that a guest is left in order."""

    def __init__(self) -> None:
        self._before: list[tuple[signal.Signals, _Handler]] = []

    def start(self) -> None:
        """Unless somebody handles SIGTERM already, or this is not the main thread."""
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        ):
            self._before.append((signal.SIGTERM, signal.signal(signal.SIGTERM, _exit)))

    def stop(self) -> None:
        """As it was before. Twice does no harm."""
        _restore(self._before)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


def _restore(before: list[tuple[signal.Signals, _Handler]]) -> None:
    while before:
        number, handler = before.pop()
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)
