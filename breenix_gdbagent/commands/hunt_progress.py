"""What a hunt says while it lasts: a line on a terminal, and one a new cluster."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Self

from breenix_gdbagent.fleet.result import Result
from breenix_gdbagent.fleet.store import Store

EVERY_SECONDS = 0.5
SHOWN = 4


class HuntProgress:
    """Boots, rate, clusters so far with their counts, time left."""

    def __init__(self, store: Store, total: int) -> None:
        self._total = total
        self._before = self._done = store.count()
        self._counts: Counter[str] = Counter(
            {row[0]: row[5] for row in store.roots() if row[2] == "error"}
        )
        self._began = self._drawn = time.monotonic()
        self._tty = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        if self._tty:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def told(self, result: Result) -> None:
        """One more boot has ended."""
        self._done += 1
        for found in result.found:
            if found.root and found.severity == "error":
                if not self._counts[found.fingerprint]:
                    self._say(f"boot {result.number}: new: {found.fingerprint}")
                self._counts[found.fingerprint] += 1
        if self._tty and time.monotonic() - self._drawn >= EVERY_SECONDS:
            self._drawn = time.monotonic()
            print(f"\r\x1b[K{self.line()}", end="", file=sys.stderr, flush=True)

    def _say(self, line: str) -> None:
        """A line that stays."""
        start = "\r\x1b[K" if self._tty else "breenix-gdbagent: "
        print(f"{start}{line}", file=sys.stderr, flush=True)

    def line(self) -> str:
        """``120/1000 boots, 5.1 a second, 172 s left; hang 3, page-fault.null@x 1``."""
        passed = time.monotonic() - self._began
        rate = (self._done - self._before) / passed if passed > 0 else 0.0
        left = f"{(self._total - self._done) / rate:.0f} s left" if rate else "time left not known"
        most = ", ".join(f"{name} {number}" for name, number in self._counts.most_common(SHOWN))
        more = len(self._counts) - SHOWN
        return (
            f"{self._done}/{self._total} boots, {rate:.1f} a second, {left}; "
            f"{most or 'no cluster yet'}{f' and {more} more' if more > 0 else ''}"
        )
