"""While the guest runs: elapsed time and its last serial line, on a terminal only."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from breenix_gdbagent.live import LiveVm

if TYPE_CHECKING:
    from rich.status import Status

REFRESH_SECONDS = 0.2


class Progress:
    """A line on stderr that is redrawn while the context lasts, and gone afterwards."""

    def __init__(self, vm: LiveVm) -> None:
        self._vm = vm
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")
            self._status.start()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._status is not None:
            self._thread.join()
            self._status.stop()

    def _draw(self) -> None:
        """The guest's text is shown as text: its brackets and escapes are no markup of ours."""
        from rich.text import Text

        while not self._done.wait(REFRESH_SECONDS):
            line = "".join(c for c in self._vm.last_line if c.isprintable())
            shown = Text(f"{self._vm.clock.seconds():6.1f} s  {line}", no_wrap=True)
            shown.truncate(max(20, self._width()), overflow="ellipsis")
            if self._status is not None:
                self._status.update(shown)

    def _width(self) -> int:
        return (self._status.console.width if self._status is not None else 80) - 4
