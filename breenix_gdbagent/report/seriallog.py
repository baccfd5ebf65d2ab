"""Serial text as lines in order of arrival, over all ports, with times and levels."""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from breenix_gdbagent.report.model import Report, ShownStop
from breenix_gdbagent.stop import SerialText

LEVELS = ("error", "warn", "info", "debug", "trace")
"""Most to least important, as the kernel's logger names them."""

# `[ INFO] kernel::x: text` (kernel/src/log.rs), `INFO : text` (the bootloader's).
_LEVEL = re.compile(r"(?:\[ *|^)(ERROR|WARN|INFO|DEBUG|TRACE)(?: *\]| *: )")
_LOUD = re.compile(
    r"KERNEL PANIC|EXCEPTION: |DOUBLE FAULT|PAGE FAULT|GENERAL PROTECTION FAULT|DIAG:DOUBLEFAULT"
    r"|^\s*Triple fault|!!!! (?:X64|IA32) Exception Type|!!!! (?:Find image|Can't find image)"
    r"|\bv=08 e=[0-9a-f]{4} i=0|BUG: (?:unable to handle|kernel NULL)|\btrap \d+, error \d+"
)
"""Kernels, firmware and QEMU (``-d int``) of what comes to nothing good."""
_CAUGHT = re.compile(r"\bv=[01][0-9a-f] e=[0-9a-f]{4} i=0")
"""Another exception that QEMU has delivered: a kernel may live on it."""
# What the kernel prints in detail, of what is no error too: `[DIAG:PAGETABLE]` of every space it
# makes, `[DIAG:PAGEFAULT]` of every page fault before it is mended. What comes to nothing good is
# named below by a line of its own (kernel/src/interrupts.rs, both eras).
_DETAIL = re.compile(r"\[DIAG:(?:PAGEFAULT|GPF|DOUBLEFAULT)(\])|\[DIAG:")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: `number` counts the lines of its port from 1; `seconds` since the start of the
    run is when its first byte came, None where nobody recorded it; `level` of `LEVELS` or None."""

    port: int
    number: int
    seconds: float | None
    level: str | None
    text: str


def level_of(text: str) -> str | None:
    """The level that a line names; what a panic or a fault prints is an error without a name, and
    the registers of a fault are for information: a fault may be mended."""
    match = _LEVEL.search(text)
    if match is not None:
        return match[1].lower()
    if _LOUD.search(text):
        return "error"
    if _CAUGHT.search(text):
        return "warn"
    detail = _DETAIL.search(text)
    if detail is not None:
        return "info" if detail[1] else "debug"
    return None


def lines_of(serial: SerialText) -> list[LogLine]:
    """Every line of every port, in the order in which their first bytes came.

    Line numbers are those of the report document (`SerialText.port(n).splitlines()`).
    """
    placed = [item for port in serial.ports for item in _lines_of_port(serial, port)]
    placed.sort(key=lambda item: item[0])
    return [line for _, line in placed]


def _lines_of_port(serial: SerialText, port: int) -> Iterator[tuple[tuple[int, int], LogLine]]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    starts: list[int] = []  # the first character of each chunk of this port
    chunks: list[int] = []  # its place among the chunks of all ports
    parts: list[str] = []
    length = 0
    for index, chunk in enumerate(serial.chunks):
        if chunk.port == port:
            starts.append(length)
            chunks.append(index)
            parts.append(decoder.decode(chunk.data))
            length += len(parts[-1])
    parts.append(decoder.decode(b"", final=True))
    at = 0
    whole = "".join(parts)
    ended = whole.splitlines(keepends=True)
    for number, (clean, text) in enumerate(zip(whole.splitlines(), ended, strict=True), 1):
        chunk_index = chunks[bisect_right(starts, at) - 1]
        at += len(text)
        seconds = serial.chunks[chunk_index].seconds
        line = LogLine(port, number, seconds, level_of(clean), clean)
        yield (chunk_index, number), line


class Growing:
    """Lines of text that still arrives: `take` has each line once, when it has ended."""

    def __init__(self) -> None:
        self._taken = 0
        self._open: dict[int, _OpenLine] = {}

    def take(self, serial: SerialText, unfinished: bool = False) -> list[LogLine]:
        """What ended since the last call, as `lines_of` has it; with `unfinished` the last line of
        each port too."""
        found: list[tuple[int, LogLine]] = []
        for index, chunk in enumerate(serial.chunks[self._taken :], self._taken):
            line = self._open.setdefault(chunk.port, _OpenLine(chunk.port))
            found += line.feed(chunk.data, index, chunk.seconds)
        self._taken = len(serial.chunks)
        if unfinished:
            for line in self._open.values():
                found += line.close()
        found.sort(key=lambda item: item[0])
        return [line for _, line in found]


class _OpenLine:
    """The line of one port that has not ended yet, and where it began."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._number = 1
        self._began = (0, 0.0)

    def feed(self, data: bytes, index: int, seconds: float) -> list[tuple[int, LogLine]]:
        if not self._text:
            self._began = (index, seconds)
        self._text += self._decoder.decode(data)
        found = []
        for piece in self._text.splitlines(keepends=True):
            clean = piece.splitlines()[0]
            # A carriage return at the very end may be half of the line's end.
            if clean == piece or (piece.endswith("\r") and len(piece) == len(self._text)):
                break
            found.append(self._line(clean))
            self._text = self._text[len(piece) :]
            self._began = (index, seconds)
        return found

    def close(self) -> list[tuple[int, LogLine]]:
        self._text += self._decoder.decode(b"", final=True)
        rest = self._text.splitlines()
        self._text = ""
        return [self._line(clean) for clean in rest]

    def _line(self, clean: str) -> tuple[int, LogLine]:
        index, seconds = self._began
        line = LogLine(self._port, self._number, seconds, level_of(clean), clean)
        self._number += 1
        return index, line


def place_of(lines: Sequence[LogLine], stop: ShownStop) -> int | None:
    """Index of the last line that had begun at a stop of the report document, None for none."""
    ends = {end.port: end.line for end in stop.serial}
    before = [n for n, line in enumerate(lines) if line.number <= ends.get(line.port, 0)]
    return before[-1] if before else None


def lines_of_report(report: Report) -> list[LogLine]:
    """The tail that a report keeps, port after port; it records no times."""
    return [
        LogLine(line.port, line.line, None, level_of(line.text), line.text)
        for line in report.serial.tail
    ]
