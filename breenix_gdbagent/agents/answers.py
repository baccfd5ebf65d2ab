"""The answers of the tools, as types. Addresses are texts ``0x...``; a long list says how many rows
there are in all, and where the next page starts (`next`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from breenix_gdbagent.jsonvalue import Json

ROOM = 1500
"""Bytes of JSON that the rows of one answer take, unless the first alone is longer."""
LONGEST_TEXT = 900
"""Characters of one text in a row."""

Row = Mapping[str, Json]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in code: its address, its line as ``file.rs:12``, which is None where not known."""

    place: str = ""
    symbol: str | None = None
    at: str | None = None


@dataclass(frozen=True, slots=True)
class Where:
    """Where the guest stands and why. `state`: ``stopped``, ``ended`` (QEMU is gone), ``saved`` (a
    file). `place` is RIP, as `Place` has it; `interrupted` is the instruction that an exception cut
    in at; `serial` is what came since the last stop."""

    state: str
    kind: str
    seconds: float
    text: str = ""
    place: str | None = None
    symbol: str | None = None
    at: str | None = None
    process: str | None = None
    thread: str | None = None
    vector: int | None = None
    error_code: str | None = None
    cr2: str | None = None
    interrupted: Place | None = None
    points: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    serial: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """One finding, or what a code means. `place` may be given to ``look``, `va` to ``walk``."""

    code: str
    severity: str
    title: str
    summary: str
    cause: str | None
    fix: str | None
    place: str | None = None
    symbol: str | None = None
    at: str | None = None
    va: str | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong, worst first. Nothing found is only said of checks that were made: those in
    `not_checked` (``name: reason``) were not."""

    total: int
    shown: tuple[Told, ...]
    next: int | None = None
    passed: int = 0
    not_checked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of what was asked for."""

    total: int
    shown: tuple[Row, ...]
    start: int = 0
    next: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written."""

    path: str
    bytes: int
    note: str = ""


def page(rows: Sequence[Row], start: int, note: str = "") -> Rows:
    """The rows from `start` on that one answer has room for."""
    shown = fitting(rows[start:])
    end = start + len(shown)
    return Rows(len(rows), shown, start, end if end < len(rows) else None, note)


def last_page(rows: Sequence[Row], note: str = "") -> Rows:
    """The last rows that one answer has room for."""
    shown = fitting(rows[::-1])[::-1]
    return Rows(len(rows), shown, len(rows) - len(shown), None, note)


def fitting(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The first of `rows` that there is room for, one at least; long texts in them cut."""
    found: list[Row] = []
    used = 0
    for row in rows:
        short = {key: cut(value) for key, value in row.items()}
        used += len(json.dumps(short, ensure_ascii=False).encode())
        if found and used > ROOM:
            break
        found.append(short)
    return tuple(found)


def cut(value: Json) -> Json:
    """A text that is not longer than `LONGEST_TEXT`; anything else as it is."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}... ({len(value)} characters)"
    return value
