"""The parsers of all commands: what completion, the man page and the docs are made of.
It imports every command, which nothing that answers a question does."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from importlib.util import find_spec

from breenix_gdbagent.commands import COMMANDS, MODULES, Parser, hunt, init_clients
from breenix_gdbagent.commands.manual import PROGRAM


def all_commands() -> Parser:
    """One parser with a sub-parser a command."""
    root = Parser(PROGRAM)
    root.add_argument("-V", "--version", action="store_true", help="the agent's version")
    commands = root.add_subparsers(metavar="COMMAND", parser_class=_Built)
    for name, what in COMMANDS.items():
        commands.add_parser(name, help=what)
    return root


class _Built(Parser):
    """What `argparse` makes of a command's whole name: that command's own parser."""

    def __new__(cls, prog: str, **_: object) -> Parser:  # type: ignore[misc]
        return parser_of(prog.removeprefix(PROGRAM).strip())


def parser_of(name: str) -> Parser:
    """The parser of one command."""
    module = importlib.import_module(f"breenix_gdbagent.commands.{MODULES.get(name, name)}")
    parser: Parser = module.build(name)
    return parser


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all that are below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from leaves(below)


def every_parser() -> dict[str, argparse.ArgumentParser]:
    """Each command, and each that is below one, by its name as it is typed."""
    found = {}
    for name in COMMANDS:
        for parser in leaves(parser_of(name)):
            found[parser.prog.removeprefix(PROGRAM).strip()] = parser
        if name == "init":
            found["init agent"] = init_clients.build_agent()
            found["init editor"] = init_clients.build_editor()
        if name == "hunt":
            found |= dict(_parts_of_hunt())
    return found


def _parts_of_hunt() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for part in hunt.PARTS:
        if find_spec(module := f"breenix_gdbagent.commands.hunt_{part}") is not None:
            built = getattr(importlib.import_module(module), "build", None)
            if built is not None:
                yield f"hunt {part}", built(f"hunt {part}")
