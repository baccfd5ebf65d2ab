"""Checkpoints, invariants and scripts of a run: what is looked at on the way, and how it is told.

A checkpoint prints values and goes on; an invariant is a check run at a place, and the first
violation ends the run; a script types into the guest's serial line and waits for its answers. None
of them changes guest memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from breenix_gdbagent.checks.examine import CHECKS
from breenix_gdbagent.control.expressions import Expression, parse
from breenix_gdbagent.control.scene import Scene
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.kernel.view import Kernel

ALIASES = {"stacks-mapped": "kernel-stacks"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``LOCATION [EXPR, EXPR...] [if CONDITION]``: print the values there and go on."""

    location: str
    expressions: tuple[Expression, ...]
    condition: Expression | None

    def line(self, kernel: Kernel) -> str | None:
        """What is said at one hit; None when the condition does not hold. What cannot be read is
        said in its place."""
        scene = Scene.of(kernel)
        if self.condition is not None:
            try:
                if not self.condition.holds(scene):
                    return None
            except (ReadError, InputError) as error:
                return f"{self.location}: cannot tell {self.condition.text}: {error.what}"
        values = ", ".join(f"{e.text} = {e.shown(scene)}" for e in self.expressions)
        return f"{self.location}: {values}" if values else self.location


@dataclass(frozen=True, slots=True)
class Invariant:
    """``CHECK at LOCATION``: the check is run there; its first error ends the run."""

    check: str
    location: str


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a script: ``send TEXT`` (a newline is added) or ``expect REGEX``."""

    verb: str
    text: str


def parse_checkpoint(text: str) -> Checkpoint:
    """Raises `InputError` for what is no checkpoint."""
    head, given, condition = text.partition(" if ")
    words = head.strip().split(None, 1)
    if not words:
        raise InputError(f"{text!r} names no location", fix="write: LOCATION [EXPR, ...] [if COND]")
    expressions = tuple(parse(e) for e in words[1].split(",")) if len(words) > 1 else ()
    return Checkpoint(words[0], expressions, parse(condition) if given else None)


def parse_invariant(text: str) -> Invariant:
    """Raises `InputError` for an unknown check, with those there are."""
    name, _, location = text.partition(" at ")
    check = ALIASES.get(name.strip(), name.strip())
    known = [n for n, _ in CHECKS]
    if check not in known or not location.strip():
        raise InputError(
            f"{text!r} is no invariant",
            f"checks: {', '.join(known)}",
            "write: CHECK at LOCATION",
        )
    return Invariant(check, location.strip())


def parse_script(lines: Sequence[str]) -> tuple[Step, ...]:
    """``send`` and ``expect`` lines; blank ones and ``#`` comments are passed over."""
    steps = []
    for number, line in enumerate(lines, 1):
        verb, _, text = line.strip().partition(" ")
        if not verb or verb.startswith("#"):
            continue
        if verb not in ("send", "expect") or (verb == "expect" and not text):
            raise InputError(
                f"line {number} of the script is neither `send TEXT` nor `expect REGEX`: {line!r}"
            )
        if verb == "expect":
            try:
                re.compile(text)
            except re.error as error:
                raise InputError(f"line {number} of the script: {error}") from error
        steps.append(Step(verb, text))
    return tuple(steps)
