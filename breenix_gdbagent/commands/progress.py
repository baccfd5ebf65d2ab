"""Progress on stderr while something lasts: a run (on a terminal only), or reading a slow target.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Self

from breenix_gdbagent.live import LiveVm

if TYPE_CHECKING:
    from rich.status import Status

REFRESH_SECONDS = 0.2
SLOW_SECONDS = 2.0


class SlowRead:
    """All of RAM through the gdbstub: after two seconds one line says so and what would be
    faster; on a terminal a second one counts. Quicker reads say nothing."""

    def __init__(self) -> None:
        self._begun = self._next = 0.0
        self._said = False

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` bytes have come."""
        now = time.monotonic()
        if done == 0:
            self._begun, self._next = now, now + SLOW_SECONDS
        counts = sys.stderr.isatty()
        if self._said and counts and done >= total:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        if now < self._next or done >= total:
            return
        self._next = now + (REFRESH_SECONDS if counts else total)
        if not self._said:
            self._said = True
            left = (now - self._begun) * (total - done) / max(done, 1)
            print(
                f"breenix-gdbagent: reading {total >> 20} MiB of RAM through the gdbstub, "
                f"{left:.0f} s more; --qmp PATH or --ram FILE is faster",
                file=sys.stderr,
            )
        if counts:
            print(f"\r  {done >> 20} MiB", end="", file=sys.stderr, flush=True)


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

    def __exit__(self, *ended: object) -> None:
        self._done.set()
        if self._status is not None:
            self._thread.join()
            self._status.stop()

    def _draw(self) -> None:
        """The guest's text is shown as text: its brackets and escapes are no markup of ours."""
        from rich.text import Text

        while not self._done.wait(REFRESH_SECONDS):
            line = "".join(c for c in self._vm.console.last_line if c.isprintable())
            shown = Text(f"{self._vm.clock.seconds():6.1f} s  {line}", no_wrap=True)
            shown.truncate(max(20, self._width()), overflow="ellipsis")
            if self._status is not None:
                self._status.update(shown)

    def _width(self) -> int:
        return (self._status.console.width if self._status is not None else 80) - 4
