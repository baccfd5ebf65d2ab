"""The guest's serial text, echoed to the terminal as it arrives."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from breenix_gdbagent.commands.shell.screen import Screen

GATHER_SECONDS = 0.04
FLUSH_SECONDS = 1.0
MOST = 1 << 14  # characters shown at once


class Echo:
    """Prints in a thread of its own: the one that reads the serial line must not wait for a
    terminal. A guest that prints without pause is shown in pieces of some text and not line by
    line, because each piece draws the prompt anew."""

    def __init__(self, screen: Screen, hides: Callable[[str], bool]) -> None:
        self._screen = screen
        self._hides = hides
        self._queue: SimpleQueue[tuple[int, bytes] | threading.Event] = SimpleQueue()
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, name="echo", daemon=True)
        self._thread.start()

    def hear(self, port: int, data: bytes) -> None:
        """Bytes of a port, from any thread."""
        self._queue.put((port, data))

    def flush(self) -> None:
        """Returns when all that was heard is on the screen, unfinished lines too."""
        done = threading.Event()
        self._queue.put(done)
        done.wait(FLUSH_SECONDS)

    def close(self) -> None:
        """Show what was heard, and end."""
        self._queue.put(self._ended)
        self._thread.join(FLUSH_SECONDS)

    def _show(self) -> None:
        while True:
            texts, mark = self._gather()
            for port, text in texts.items():
                self._screen.serial(port, text, self._hides)
            if mark is not None:
                self._screen.flush_serial(self._hides)
                mark.set()
                if mark is self._ended:
                    return

    def _gather(self) -> tuple[dict[int, str], threading.Event | None]:
        """What was heard until nothing comes for a moment, by port; the mark that ended it."""
        texts: dict[int, str] = {}
        item = self._queue.get()
        while isinstance(item, tuple):
            port, data = item
            texts[port] = texts.get(port, "") + self._decoder(port).decode(data)
            if sum(map(len, texts.values())) > MOST:
                return texts, None
            try:
                item = self._queue.get(timeout=GATHER_SECONDS)
            except Empty:
                return texts, None
        return texts, item

    def _decoder(self, port: int) -> codecs.IncrementalDecoder:
        return self._decoders.setdefault(port, codecs.getincrementaldecoder("utf-8")("replace"))
