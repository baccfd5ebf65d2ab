"""While the guest runs: elapsed time and its last serial line, on a terminal only."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Self

from breenix_gdbagent.live import LiveVm

REFRESH_SECONDS = 0.2
LINE_LENGTH = 100


class Progress:
    """A line on stderr that is redrawn while the context lasts, and gone afterwards."""

    def __init__(self, vm: LiveVm) -> None:
        self._vm = vm
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Self:
        if self._shown:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._shown:
            self._thread.join()
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _draw(self) -> None:
        while not self._done.wait(REFRESH_SECONDS):
            line = "".join(c for c in self._vm.last_line if c.isprintable())
            text = f"{self._vm.clock.seconds():6.1f} s  {line}"[:LINE_LENGTH]
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
