"""Checkpoints, invariants and scripts of a run: what is looked at on the way, and how it is told.

A checkpoint prints values and goes on; an invariant is a check run at a place, and the first
violation ends the run; a script types into the guest's serial line and waits for its answers. None
of them changes guest memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.examine import CHECKS
from breenix_gdbagent.control.values import value_of
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_number

_COMPARISON = re.compile(r"\s*(.+?)\s*(==|!=|<=|>=|<|>)\s*(.+?)\s*\Z")
_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
ALIASES = {"stacks-mapped": "kernel-stacks"}


@dataclass(frozen=True, slots=True)
class Condition:
    """Comparisons that must all hold: ``rdi == 3 and SCHEDULER.current_thread != 0``."""

    text: str
    parts: tuple[tuple[str, str, str], ...]

    def holds(self, kernel: Kernel) -> bool:
        """Raises `ReadError` when a value cannot be had, `InputError` when it is no number."""
        return all(
            _OPERATORS[sign](number_of(kernel, left), number_of(kernel, right))
            for left, sign, right in self.parts
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``LOCATION [EXPR, EXPR...] [if CONDITION]``: print the values there and go on."""

    location: str
    expressions: tuple[str, ...]
    condition: Condition | None

    def line(self, kernel: Kernel) -> str | None:
        """What is said at one hit; None when the condition does not hold. What cannot be read is
        said in its place."""
        if self.condition is not None:
            try:
                if not self.condition.holds(kernel):
                    return None
            except ReadError as error:
                return f"{self.location}: cannot tell {self.condition.text}: {error.what}"
        values = ", ".join(f"{e} = {text_of(kernel, e)}" for e in self.expressions)
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
    head, _, condition = text.partition(" if ")
    words = head.strip().split(None, 1)
    if not words:
        raise InputError(f"{text!r} names no location", fix="write: LOCATION [EXPR, ...] [if COND]")
    expressions = tuple(e.strip() for e in words[1].split(",")) if len(words) > 1 else ()
    if not all(expressions):
        raise InputError(f"{text!r} has an empty expression")
    return Checkpoint(words[0], expressions, parse_condition(condition) if condition else None)


def parse_condition(text: str) -> Condition:
    """Raises `InputError` for what is no comparison."""
    parts = []
    for one in text.split(" and "):
        found = _COMPARISON.match(one)
        if found is None:
            raise InputError(
                f"{one.strip()!r} is no comparison", fix="write: VALUE == VALUE (or != < <= > >=)"
            )
        parts.append((found[1], found[2], found[3]))
    return Condition(text.strip(), tuple(parts))


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


def number_of(kernel: Kernel, text: str) -> int:
    """A number, a register of the stop's CPU, or a static's value. Raises `ReadError`."""
    value = parse_number(text)
    if value is not None:
        return value
    register = kernel.stop.cpu.get(text.removeprefix("$"))
    if register is not None:
        return register
    from breenix_gdbagent.symbols.tree import to_python

    plain = to_python(value_of(kernel, text))
    if not isinstance(plain, int):
        raise ReadError(f"{text} is no number at this stop but {plain}")
    return int(plain)


def text_of(kernel: Kernel, text: str) -> str:
    """A value as a checkpoint prints it; what cannot be had says why."""
    register = kernel.stop.cpu.get(text.removeprefix("$"))
    if register is not None:
        return kernel.describe(register) if kernel.symbol(register) else hex64(register)
    from breenix_gdbagent.symbols.tree import render

    try:
        return " ".join(line.strip() for line in render(value_of(kernel, text)))
    except (ReadError, InputError) as error:
        return f"<{error.what}>"
