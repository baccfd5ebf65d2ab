"""``completion bash|zsh|fish``: what a shell needs to complete our command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.alltogether import all_commands, leaves
from breenix_gdbagent.lab import scenarios

SHELLS = ("bash", "zsh", "fish")


def run(name: str, argv: list[str]) -> int:
    """``completion SHELL``: a script on stdout."""
    shell = build(name).parse_args(argv).shell
    import shtab

    sys.stdout.write(shtab.complete(_with_hints(all_commands()), shell))
    return 0


def build(name: str) -> Parser:
    """The options of `completion`."""
    parser = Parser("breenix-gdbagent completion")
    parser.add_argument("shell", choices=SHELLS, help="whose completion it is")
    return parser


def _with_hints(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The tree with what each value may be: files, directories, scenarios, codes."""
    import shtab

    from breenix_gdbagent.checks.register import all_codes

    named: dict[str, Sequence[str]] = {"SCENARIO": tuple(scenarios())}
    codes = ("CODE", "CODE[@PROCESS]", "CODE[@SUBJECT]", "CODE|ERRORCODE|TEXT")
    named |= dict.fromkeys(codes, sorted(all_codes()))
    for leaf in leaves(parser):
        for action in leaf._actions:
            metavar = action.metavar if isinstance(action.metavar, str) else ""
            if metavar in named:
                action.choices = named[metavar]
            elif metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif metavar == "DIR":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return parser


_FILES = ("FILE", "ELF", "IMG", "OUT", "A", "B", "FILE [QUERY]", "NAME|FILE", "PATH")
