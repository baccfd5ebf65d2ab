"""A line as it was typed at the prompt: the name of a command, and its arguments."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from breenix_gdbagent.commands.shell.texts import Command
from breenix_gdbagent.errors import InputError

if TYPE_CHECKING:
    import argparse

    from breenix_gdbagent.commands import Parser


@dataclass(frozen=True)
class Line:
    """One command as it was typed: `text` is what stands behind its name, `form` behind a ``/``."""

    command: Command
    text: str
    form: str = ""

    @cached_property
    def words(self) -> list[str]:
        """As a shell splits it. Raises `InputError` for a quote that does not end."""
        try:
            return shlex.split(self.text, comments=True)
        except ValueError as error:
            raise InputError(f"cannot read this line: {error}") from error


def parser_of(line: Line) -> Parser:
    """A parser of the command's own arguments, whose hints are the shell's."""
    from breenix_gdbagent.commands import Parser
    from breenix_gdbagent.commands.shell.texts import explained

    class _Parser(Parser):
        def error(self, message: str) -> NoReturn:
            raise InputError(message, fix=f"see: help {line.command.name}")

        def format_help(self) -> str:
            return explained(line.command) + "\n"

    return _Parser(line.command.name)


def arguments(line: Line, *spec: tuple[str, str]) -> argparse.Namespace:
    """Parse a command's own arguments: (name, nargs) each. Raises `InputError`."""
    parser = parser_of(line)
    for argument, nargs in spec:
        parser.add_argument(argument, nargs=nargs or None)
    return parser.parse_args(line.words)


def count_of(text: str | None, what: str, default: int = 1) -> int:
    """A count of at least 1. Raises `InputError`."""
    from breenix_gdbagent.locations import parse_number

    if text is None:
        return default
    number = parse_number(text)
    if number is None or number < 1:
        raise InputError(f"{text!r} is no number of {what}")
    return number
