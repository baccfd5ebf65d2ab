"""What ``log`` shows: lines chosen by level, words or place, over all ports in order of arrival."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.ink import PLAIN, Ink
from breenix_gdbagent.report.seriallog import LEVELS, LogLine
from breenix_gdbagent.report.story import log_text

INKS = {"error": "error", "warn": "warning", "debug": "dim", "trace": "dim"}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which lines: all of these must hold. `level` and whatever weighs more; `ports` None is all;
    `context` lines around each chosen one come along."""

    pattern: re.Pattern[str] | None = None
    level: str | None = None
    ports: frozenset[int] | None = None
    context: int = 0
    around: tuple[int, ...] = field(default_factory=tuple)


def chosen(lines: Sequence[LogLine], choice: Choice) -> list[tuple[LogLine, bool]]:
    """(line, whether it was meant itself and not only as context), in order of arrival.

    `choice.around` are indices into `lines`: places of interest, each with its context.
    """
    open_to = [n for n, one in enumerate(lines) if choice.ports is None or one.port in choice.ports]
    if choice.around:
        meant = {n for n in open_to if n in choice.around}
    else:
        meant = {n for n in open_to if _matches(lines[n], choice)}
    if not choice.context:
        return [(lines[n], True) for n in open_to if n in meant]
    kept: set[int] = set()
    for place, n in enumerate(open_to):
        if n in meant:
            first = max(0, place - choice.context)
            kept.update(open_to[first : place + choice.context + 1])
    return [(lines[n], n in meant) for n in sorted(kept)]


def _matches(line: LogLine, choice: Choice) -> bool:
    if choice.level is not None and (
        line.level is None or LEVELS.index(line.level) > LEVELS.index(choice.level)
    ):
        return False
    return choice.pattern is None or choice.pattern.search(log_text(line.text)) is not None


def text_of(
    shown: Sequence[tuple[LogLine, bool]],
    stops: Mapping[tuple[int, int], str],
    ports: int,
    ink: Ink = PLAIN,
) -> str:
    """Lines for a terminal. `stops` is (port, line number) -> what happened right after it."""
    out = []
    last: LogLine | None = None
    for line, meant in shown:
        if last is not None and last.port == line.port and line.number > last.number + 1:
            out.append(ink("dim", "   ..."))
        out.append(line_text(line, ports, ink, meant))
        if (line.port, line.number) in stops:
            out.append(ink("error", f"--- {stops[line.port, line.number]}"))
        last = line
    return "".join(row + "\n" for row in out)


def line_text(line: LogLine, ports: int, ink: Ink = PLAIN, meant: bool = True) -> str:
    """``    0.412  COM1  [ INFO] kernel: text``; the port only where there are several."""
    when = "        -" if line.seconds is None else f"{line.seconds:9.3f}"
    port = f"  COM{line.port + 1}" if ports > 1 else ""
    kind = INKS.get(line.level or "", "") if meant else "dim"
    return f"{ink('dim', when + port)}  {ink(kind, log_text(line.text))}".rstrip()


def json_of(shown: Sequence[tuple[LogLine, bool]]) -> list[Json]:
    """The lines as data, the text as it came."""
    return [
        {
            "port": line.port,
            "line": line.number,
            "seconds": None if line.seconds is None else round(line.seconds, 3),
            "level": line.level,
            "text": line.text,
            "context": not meant,
        }
        for line, meant in shown
    ]
