"""Scripts for the guest's serial line: lines to type, and text to wait for before going on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.patterns import compiled


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a script: ``send TEXT`` (a newline is added) or ``expect REGEX``."""

    verb: str
    text: str


def parse_script(lines: Sequence[str]) -> tuple[Step, ...]:
    """``send`` and ``expect`` lines; blank ones and ``#`` comments are passed over. Raises
    `InputError` with the number of the line."""
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
            compiled(text, f"line {number} of the script:")
        steps.append(Step(verb, text))
    return tuple(steps)
