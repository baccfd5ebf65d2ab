"""Signals while we hold a guest: Ctrl-C stops the guest and not us, SIGTERM ends us in order."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Self

TERMINATED = 128 + signal.SIGTERM
"""Exit status after SIGTERM, as a shell gives it."""

_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class Uncut:
    """While active in the main thread, SIGINT and SIGTERM wait until it ends, and are raised
    then: a conversation is not left in the middle of an answer. A second SIGINT does not wait.

    In another thread it does nothing.
    """

    def __init__(self) -> None:
        self.noted = 0
        self._before: list[tuple[signal.Signals, _Handler]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before.append((number, signal.signal(number, self.note)))
        return self

    def __exit__(self, *ended: object) -> None:
        # A signal that comes while this runs is noted still, or is the next handler's already.
        _restore(self._before)
        noted, self.noted = self.noted, 0
        if noted:
            raise_again(noted)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler meanwhile."""
        if number == signal.SIGINT and self.noted == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = max(self.noted, number)


class Interrupts(Uncut):
    """The same for a wait: a signal makes `wake` readable. Whoever acts on it clears `noted`.

    It does so by itself (`signal.set_wakeup_fd`): a handler in Python runs between two
    instructions of Python, and would wait for a wait that has begun behind the last one to end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wake, self._waker = socket.socketpair()
        self.wake.setblocking(False)
        self._waker.setblocking(False)
        self._fd_before: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            fd = self._waker.fileno()
            self._fd_before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        return super().__enter__()

    def __exit__(self, *ended: object) -> None:
        if self._fd_before is not None:
            signal.set_wakeup_fd(self._fd_before)
        self.wake.close()
        self._waker.close()
        super().__exit__(*ended)

    def drain(self) -> None:
        """Take what made `wake` readable: signals that are none of ours do too."""
        with suppress(BlockingIOError):
            self.wake.recv(4096)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler meanwhile."""
        super().note(number, frame)
        self._wake()

    def ask(self) -> None:
        """As SIGINT would, but from any thread."""
        self.noted = max(self.noted, signal.SIGINT)
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):
            self._waker.send(b"!")


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


def raise_again(number: int) -> None:
    """As if the signal came now: whoever handles it does so.

    The default of SIGTERM would end us on the spot, with the guest in our hands: SystemExit.
    """
    if number == signal.SIGTERM and signal.getsignal(number) is signal.SIG_DFL:
        raise SystemExit(TERMINATED)
    signal.raise_signal(number)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


def _restore(before: list[tuple[signal.Signals, _Handler]]) -> None:
    while before:
        number, handler = before.pop()
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)
