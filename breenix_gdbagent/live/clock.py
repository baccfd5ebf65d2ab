"""How long the guest has run: the host's clock, counted only while it runs."""

from __future__ import annotations

import time


class RunClock:
    """Starts with a stopped guest, at 0 seconds."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None

    def run(self) -> None:
        """The guest goes on."""
        if self._since is None:
            self._since = time.monotonic()

    def stop(self) -> None:
        """The guest is stopped."""
        self._before = self.seconds()
        self._since = None

    def seconds(self) -> float:
        """Running time so far."""
        since = self._since
        return self._before + (time.monotonic() - since if since is not None else 0.0)
