"""What the wording of a family is made with: the register of its functions, and common phrases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.checks.facts import Facts
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.lock_state import LockUser
from breenix_gdbagent.kernel.spaces import Space

F = TypeVar("F", bound=Facts)


@dataclass(frozen=True, slots=True)
class Words:
    """What is said of a finding: one line, the paragraph that explains it, and a picture of text
    lines; the last two may be empty."""

    summary: str
    explanation: str = ""
    picture: str = ""


TELLERS: dict[type[Facts], Callable[[Finding, Any], Words]] = {}
"""Facts -> the function that tells of them; each wording module enters its own."""

Told = Callable[[Finding, F], Words]


def tells(facts: type[F]) -> Callable[[Told[F]], Told[F]]:
    """Enters a function as the one that tells of such facts."""

    def enter(tell: Told[F]) -> Told[F]:
        assert facts not in TELLERS, facts
        TELLERS[facts] = tell
        return tell

    return enter


V = TypeVar("V")
PHRASES: dict[type, Callable[[Any], Json]] = {}
"""Types of columns that evidence has in words -> how."""


def phrases(kind: type[V]) -> Callable[[Callable[[V], Json]], Callable[[V], Json]]:
    """Enters a function as the one that puts values of a type into words."""

    def enter(phrase: Callable[[V], Json]) -> Callable[[V], Json]:
        assert kind not in PHRASES, kind
        PHRASES[kind] = phrase
        return phrase

    return enter


def at(va: int, symbol: str | None) -> str:
    """An address with its symbol, as `Kernel.describe` has it."""
    return f"{hex64(va)} <{symbol}>" if symbol else hex64(va)


def named(spaces: Sequence[Space], most: int) -> str:
    """The labels of the first `most` spaces."""
    return ", ".join(space.label for space in spaces[:most])


def and_more(count: int, noun: str = "", plural: str = "", of: str = "") -> str:
    """`` (and 3 more pages of it)`` where there are more than the one that is told of, else
    empty."""
    if count < 2:
        return ""
    others = counted(count - 1, f"more {noun}", plural and f"more {plural}")
    return f" (and {others}{of})" if noun else f" (and {count - 1} more)"


def lock_holder(holder: LockUser | None) -> str:
    """Who holds a lock that is taken."""
    if holder is None:
        return "holder not known: no backtrace shows its guard"
    return f"held by CPU {holder.cpu}, whose backtrace shows the guard in {holder.function}"
