"""The shell in a real pty, and what a terminal would show of it (pyte)."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pexpect
import pyte

SECONDS = 30.0
TICK = 0.05
_POSITION = b"\x1b[6n"


class Terminal:
    """One shell. `text` is all that the terminal has shown, scrolled off or not; what a command
    brought is what stands below the line where it was typed."""

    def __init__(
        self,
        room: Path,
        *arguments: str,
        columns: int = 100,
        lines: int = 40,
        term: str = "xterm-256color",
        **environment: str,
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=20_000, ratio=1.0)
        self._stream = pyte.ByteStream(self.screen)
        self._mark = 0
        self.raw = b""
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "breenix_gdbagent", "shell", *arguments],
            env={
                "HOME": str(room),
                "PATH": os.environ["PATH"],
                "TERM": term,
                "LANG": "C.UTF-8",
                "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
                **environment,
            },
            cwd=str(room),
            dimensions=(lines, columns),
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.child.close(force=True)

    # What it shows ---------------------------------------------------------------------------

    @property
    def rows(self) -> list[str]:
        """Every row, from the first that scrolled off to the last on the screen."""
        gone = [
            "".join(row[x].data for x in range(self.screen.columns))
            for row in self.screen.history.top
        ]
        return [row.rstrip() for row in (*gone, *self.screen.display)]

    @property
    def text(self) -> str:
        return "\n".join(self.rows).rstrip()

    @property
    def since(self) -> str:
        """What stands below the line typed last."""
        return "\n".join(self.rows[self._mark :]).rstrip()

    @property
    def bar(self) -> str:
        """The bottom bar: the last row that has something in it."""
        return next((row for row in reversed(self.rows) if row), "")

    @property
    def line(self) -> str:
        """The row where the cursor is."""
        return str(self.screen.display[self.screen.cursor.y]).rstrip()

    @property
    def _row(self) -> int:
        return len(self.screen.history.top) + self.screen.cursor.y

    # Waiting ---------------------------------------------------------------------------------

    def read(self, seconds: float = TICK) -> bool:
        """Take what comes next; False when the shell has ended."""
        try:
            data = self.child.read_nonblocking(1 << 16, seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        if _POSITION in data:
            row, column = self.screen.cursor.y + 1, self.screen.cursor.x + 1
            self.child.send(f"\x1b[{row};{column}R")
        return True

    def until(self, pattern: str, *, everywhere: bool = False, seconds: float = SECONDS) -> str:
        """Wait until a regular expression matches what was shown since the line typed last."""
        limit = time.monotonic() + seconds
        while True:
            shown = self.text if everywhere else self.since
            if re.search(pattern, shown, re.MULTILINE):
                return shown
            ended = not self.read()
            if ended or time.monotonic() > limit:
                why = "the shell has ended" if ended else f"not seen within {seconds} s"
                raise AssertionError(f"{pattern!r}: {why}\n{self.text}")

    def ready(self) -> None:
        """Wait for a prompt: the cursor behind ``(...)``, below the line typed last."""
        limit = time.monotonic() + SECONDS
        while self._row < self._mark or not re.fullmatch(r"\(.+\)", self.line):
            assert self.read(), f"the shell has ended\n{self.text}"
            assert time.monotonic() < limit, f"no prompt\n{self.text}"

    def ended(self) -> int:
        """Wait for the end of the shell: its exit code, or minus the signal."""
        limit = time.monotonic() + SECONDS
        while self.read():
            assert time.monotonic() < limit, f"the shell goes on\n{self.text}"
        self.child.wait()
        code = self.child.exitstatus
        return int(code if code is not None else -self.child.signalstatus)

    # Typing ----------------------------------------------------------------------------------

    def keys(self, text: str) -> None:
        """Keys as they are, the line not ended."""
        self.child.send(text)

    def enter(self, line: str) -> None:
        """A line at a prompt."""
        self.ready()
        self._mark = self._row + 1
        self.child.send(f"{line}\r")

    def run(self, line: str, pattern: str | None = None) -> str:
        """A line, and what it brings, waited for until `pattern` matches. Without one only the next
        prompt is waited for: what is printed may still come above it."""
        self.enter(line)
        if pattern is not None:
            self.until(pattern)
        self.ready()
        return self.since
