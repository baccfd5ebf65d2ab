"""Writes the man page, of the same words as ``--help``: ``python tools/manpage.py OUT``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from breenix_gdbagent.commands import COMMANDS
from breenix_gdbagent.commands.alltogether import every_parser
from breenix_gdbagent.commands.manual import PAGES, PROGRAM
from breenix_gdbagent.version import VERSION

CODES = (
    ("0", "yes, or nothing is wrong"),
    ("1", "the answer is no: findings, not mapped, not found, differs"),
    ("2", "usage, or a bad input file"),
    ("3", "the agent, QEMU or the link failed"),
    ("4", "the deadline passed, and nothing worse was found"),
)
VARIABLES = (
    ("NO_COLOR", "if it is not empty: no colour"),
    ("FORCE_COLOR", "if it is not empty: colour in a pipe, too"),
    ("GITHUB_STEP_SUMMARY", "where --github appends its summary"),
    ("BREENIX_GDBAGENT_TRACEBACK", "if it is not empty: a defect of the agent shows its traceback"),
)


def escaped(text: str) -> str:
    """As roff reads it: its own characters told apart, hyphens that can be copied."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{plain}" if plain[:1] in (".", "'") else plain


def page() -> str:
    """The whole page, in the macros of man(7)."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM} {VERSION}" "User Commands"'
    yield from (".SH NAME", f"{escaped(PROGRAM)} \\- tells why a kernel under QEMU faulted")
    yield from (".SH SYNOPSIS", f".B {escaped(PROGRAM)}", ".I COMMAND", "[OPTIONS]")
    yield ".SH DESCRIPTION"
    yield escaped(
        "Launches QEMU or attaches to one, speaks the GDB remote protocol, reads the registers, "
        "walks the guest's page tables through physical memory, and says why the kernel faulted. "
        "It is made for the Breenix kernel, and looks at any other that QEMU runs."
    )
    yield ".SH TARGETS"
    yield escaped("Options that name what is looked at; the same ones for every command.")
    parsers = every_parser()
    shared = _target_of(parsers["log"])
    for action in shared:
        yield from _option(action)
    yield ".SH COMMANDS"
    for name, parser in parsers.items():
        yield from _command(name, parser, {a.dest for a in shared})
    yield ".SH EXIT STATUS"
    yield from (line for code in CODES for line in _item(*code))
    yield ".SH ENVIRONMENT"
    yield from (line for variable in VARIABLES for line in _item(*variable))
    yield from (".SH SEE ALSO", ".BR gdb (1),", ".BR qemu (1)")


def _target_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    groups = [g for g in parser._action_groups if (g.title or "").startswith("target")]
    return [a for group in groups for a in group._group_actions]


def _command(name: str, parser: argparse.ArgumentParser, shared: set[str]) -> Iterator[str]:
    yield f".SS {escaped(name)}"
    yield escaped(PAGES[name].text)
    for action in parser._actions:
        below = isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
        if not below and action.dest not in shared and action.help != argparse.SUPPRESS:
            yield from _option(action)
    yield from (".PP", "Examples:")
    for what, line in PAGES[name].examples:
        yield from (".PP", escaped(what), ".RS", ".nf", escaped(f"{PROGRAM} {line}"), ".fi", ".RE")


def _option(action: argparse.Action) -> Iterator[str]:
    value = action.metavar if isinstance(action.metavar, str) else ""
    if not value and action.choices is not None:
        value = "|".join(map(str, action.choices))
    if action.nargs == "?" and action.option_strings:
        value = f"[{value}]"
    flags = ", ".join(action.option_strings)
    yield from _item(" ".join(filter(None, (flags, value))), action.help or "")


def _item(term: str, meaning: str) -> Iterator[str]:
    yield from (".TP", f".B {escaped(term)}", escaped(meaning))


if __name__ == "__main__":
    assert set(COMMANDS) <= set(PAGES)
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
