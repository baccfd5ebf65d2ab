"""Where the shell writes: a terminal of some width, colours where they are wanted, long answers
through a pager, and the guest's serial text above the prompt."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO

from breenix_gdbagent.commands.output import aside
from breenix_gdbagent.report.ink import PLAIN, Ink

PLAIN_WIDTH = 100
_SGR = re.compile(r"\x1b\[[0-9;]*m")
# What the guest's memory or serial line may hold must not drive the terminal.
_CONTROL = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")


class Screen:
    """`terminal` is whether a person sits there; `last_line` is the guest's last whole line of
    serial text. Writing is safe from any thread."""

    def __init__(self, terminal: bool = False) -> None:
        self.terminal = terminal
        term = os.environ.get("TERM", "")
        self.dumb = term in ("", "dumb", "unknown")
        wanted = os.environ.get("FORCE_COLOR") or (terminal and not self.dumb)
        colour = wanted and not os.environ.get("NO_COLOR")
        self.ink: Ink = Ink(True) if colour else PLAIN
        self._lock = threading.RLock()
        self._held: list[str] | None = None
        self._tails: dict[int, str] = {}
        self.last_line = ""
        self._out: TextIO | None = None
        self._raw: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(columns, lines)."""
        if not self.terminal:
            wanted = os.environ.get("COLUMNS", "")
            return int(wanted) if wanted.isdecimal() and int(wanted) else PLAIN_WIDTH, 24
        found = shutil.get_terminal_size((PLAIN_WIDTH, 24))
        return found.columns, found.lines

    @property
    def room(self) -> int | None:
        """Lines that a view may take so that the prompt and the bar are seen below it; None where
        nothing scrolls away."""
        return max(self.size[1] - 3, 1) if self.terminal else None

    @property
    def width(self) -> int:
        return self.size[0]

    def write(self, text: str) -> None:
        """One or several lines; kept back while a pager has the terminal."""
        text = _CONTROL.sub("?", text)
        with self._lock:
            if self._held is not None:
                self._held.append(text)
                return
            # Not what a paged command redirects: another thread may be the one that writes.
            out = self._out or sys.stdout
            out.write(text + "\n")
            out.flush()

    def fail(self, text: str) -> None:
        """An error, on stderr; in a terminal where everything else is."""
        if self.terminal:
            self.write(self.ink("bad", text))
        else:
            aside(text)

    def flush(self) -> None:
        """What was printed so far is out, before anything else is said on another stream."""
        sys.stdout.flush()

    # Serial text -----------------------------------------------------------------------------

    def serial(self, port: int, text: str, hide: Callable[[str], bool]) -> None:
        """Text of the guest's, as it comes: whole lines at once, the rest when its end comes."""
        with self._lock:
            if self._raw is not None:
                if port == self._raw and sys.__stdout__ is not None:
                    sys.__stdout__.write(text)
                    sys.__stdout__.flush()
                return
            whole = self._tails.get(port, "") + text.replace("\r\n", "\n").replace("\r", "\n")
            *lines, self._tails[port] = whole.split("\n")
            told = [line for line in lines if not hide(line)]
            if told:
                self.last_line = next((t for t in reversed(told) if t.strip()), self.last_line)
                self.write("\n".join(self._serial_line(port, line) for line in told))

    @contextmanager
    def raw(self, port: int) -> Iterator[None]:
        """The terminal is that serial port's, as it writes; all else waits until the end."""
        with self._lock:
            self._raw, self._held = port, []
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        with self._lock:
            self._raw = None
            held, self._held = self._held, None
            for one in held or ():
                self.write(one)

    def flush_serial(self, hide: Callable[[str], bool]) -> None:
        """The guest is stopped: what it wrote of a line so far is all there is. The beginning of
        a line that is hidden waits for its end."""
        with self._lock:
            for port, tail in self._tails.items():
                if hide(tail):
                    continue
                if tail.strip():
                    self.write(self._serial_line(port, tail))
                self._tails[port] = ""

    def _serial_line(self, port: int, line: str) -> str:
        text = "".join(c for c in line if c.isprintable() or c == "\t")
        return self.ink("dim", text if port == 0 else f"COM{port + 1}: {text}")

    # Long answers ----------------------------------------------------------------------------

    @contextmanager
    def paged(self) -> Iterator[None]:
        """What is printed meanwhile goes through a pager when it is longer than the screen."""
        if not self.terminal or self.dumb:
            yield
            return
        kept = io.StringIO()
        self._out = sys.stdout
        try:
            with redirect_stdout(kept):
                yield
        finally:
            self._out = None
            self._show(kept.getvalue())

    def _show(self, text: str) -> None:
        if not text:
            return
        columns, lines = self.size
        rows = sum(1 + max(columns_of(line) - 1, 0) // columns for line in text.splitlines())
        if rows < lines - 1 or not self._page(text):
            self.write(text.rstrip("\n"))

    def _page(self, text: str) -> bool:
        """Through the pager of the user's choice; whether there is one."""
        command = os.environ.get("BREENIX_PAGER", os.environ.get("PAGER", "less"))
        program = shutil.which(command.split()[0]) if command.split() else None
        if program is None:
            return False
        environment = {**os.environ, "LESS": os.environ.get("LESS", "FRX")}
        with self._lock:
            self._held = []
        try:
            with suppress(OSError, KeyboardInterrupt):
                subprocess.run(
                    [program, *command.split()[1:]],
                    input=text, text=True, check=False, env=environment,
                )  # fmt: skip
                return True
            return False
        finally:
            self._release()


def bare(text: str) -> str:
    """Without colours."""
    return _SGR.sub("", text)


def columns_of(text: str) -> int:
    """Columns that a terminal gives to `text`, colours aside."""
    plain = bare(text)
    return len(plain) if plain.isascii() else sum(map(_columns, plain))


def _columns(character: str) -> int:
    """By the table that the prompt is drawn with: Python's own is as old as the Python is, and
    characters that a later Unicode made wide would end behind the line."""
    from prompt_toolkit.utils import get_cwidth

    return get_cwidth(character)


def clipped(text: str, width: int) -> str:
    """`text` in at most `width` columns, colours kept; what was cut off shows as an ellipsis."""
    if columns_of(text) <= width:
        return text
    out: list[str] = []
    left = width - 1
    for part in re.split(r"(\x1b\[[0-9;]*m)", text):
        if _SGR.fullmatch(part):
            out.append(part)
            continue
        for character in part:
            left -= _columns(character)
            if left < 0:
                break
            out.append(character)
    closed = "\x1b[0m" if "\x1b" in text else ""
    return "".join(out) + closed + "…"
