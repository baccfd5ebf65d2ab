"""Ctrl-C while the guest runs stops the guest, not the agent."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self


class Interrupts:
    """While active in the main thread, the first SIGINT is only noted, and wakes `wake`.

    A second one is KeyboardInterrupt as ever. In another thread it does nothing.
    """

    def __init__(self) -> None:
        self.seen = False
        self.wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._before: object = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if callable(self._before) or isinstance(self._before, int):
            signal.signal(signal.SIGINT, self._before)
        self.wake.close()
        self._waker.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True
        with suppress(BlockingIOError):
            self._waker.send(b"!")
