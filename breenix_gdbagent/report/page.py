"""Text for a terminal: lines wrapped to a width, painted or plain, whatever the guest wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable

from breenix_gdbagent.report.ink import PLAIN, Ink
from breenix_gdbagent.report.story import printable

Segment = tuple[str, str]
"""(kind of ink, text); kind is empty for plain."""

READABLE = 110
"""Columns beyond which nobody reads a paragraph with pleasure."""

_SGR = r"\x1b\[[0-9;]*m"


class Page:
    """Collects lines. Text is made printable before it is painted, so that no control character
    of the guest's ever reaches the terminal."""

    def __init__(self, width: int, ink: Ink = PLAIN) -> None:
        self.width = max(40, width)
        self.prose = min(self.width, READABLE)
        self.ink = ink
        self.lines: list[str] = []

    def line(self, *segments: str | Segment) -> None:
        """One line of segments, as long as it has to be."""
        parts = [("", s) if isinstance(s, str) else s for s in segments]
        parts = [(kind, printable(text)) for kind, text in parts]
        while parts and not parts[-1][1].rstrip():
            parts.pop()
        if parts:
            parts[-1] = (parts[-1][0], parts[-1][1].rstrip())
        self.lines.append("".join(self.ink(kind, text) for kind, text in parts))

    def blank(self) -> None:
        """An empty line, never two, never at the top."""
        if self.lines and self.lines[-1]:
            self.lines.append("")

    def text(self, text: str, indent: str = "", hanging: str | None = None, kind: str = "") -> None:
        """A paragraph wrapped to the width; lines after the first begin with `hanging`."""
        import textwrap

        rest = indent if hanging is None else hanging
        for part in printable(text.replace("\n", " ")).splitlines() or [""]:
            wrapped = textwrap.wrap(
                part, self.prose, initial_indent=indent, subsequent_indent=rest,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
            for row in wrapped:
                self.line((kind, row))

    def items(self, items: Iterable[str], indent: str, between: str = "   ") -> None:
        """Short things side by side, as many a line as fit."""
        row = ""
        for item in items:
            if row and len(indent) + len(row) + len(between) + len(item) > self.width:
                self.line(indent + row)
                row = item
            else:
                row += (between if row else "") + item
        if row:
            self.line(indent + row)

    def beside(self, left: Page, right: Page, between: int = 3) -> None:
        """Two pages side by side."""
        seen = [len(re.sub(_SGR, "", line)) for line in left.lines]
        edge = max(seen, default=0) + between
        for number in range(max(len(left.lines), len(right.lines))):
            mine = left.lines[number] if number < len(seen) else ""
            pad = edge - (seen[number] if number < len(seen) else 0)
            other = right.lines[number] if number < len(right.lines) else ""
            self.lines.append((mine + " " * pad + other).rstrip())

    def __str__(self) -> str:
        return "\n".join(self.lines).rstrip("\n") + "\n"
