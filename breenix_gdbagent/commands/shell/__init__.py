"""``shell``: where a kernel developer stays. All that the analyzers know, beside live control."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.commands.target import (
    Target,
    add_target_options,
    explained_snapshot,
    target_of,
)
from breenix_gdbagent.errors import InputError


def run(name: str, argv: list[str]) -> int:
    """``shell``, see the parser."""
    options = _parser().parse_args(argv)
    target = target_of(options, default_lab=True)
    lines = _script(options.command, options.batch)
    with ExitStack() as leave:
        session = _open(target, leave)
        if lines is not None:
            return session.run_script(lines)
        if not sys.stdin.isatty():
            return session.run_script(sys.stdin.read().splitlines())
        from breenix_gdbagent.commands.shell.prompt import converse

        return converse(session)


def _parser() -> Parser:
    parser = Parser("breenix-gdbagent shell", description="interactive debugging; `help` inside")
    add_target_options(parser)
    parser.add_argument("-c", dest="command", action="append", metavar="CMD", help="run and leave")
    parser.add_argument("--batch", type=Path, metavar="FILE", help="run the commands of a file")
    return parser


def _script(commands: list[str] | None, batch: Path | None) -> list[str] | None:
    if commands and batch is not None:
        raise InputError("-c and --batch at once", fix="put all commands into the file")
    if batch is None:
        return commands
    try:
        return batch.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {batch}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{batch} is no text file") from error


def _open(target: Target, leave: ExitStack) -> Session:
    """A session on the target; what it holds is let go when `leave` closes."""
    if not target.runs:
        return Session(stop=explained_snapshot(target)[0])
    from breenix_gdbagent.commands.machines import open_machine
    from breenix_gdbagent.watch import Orders, Run

    machine = open_machine(target)
    leave.enter_context(machine.vm)
    control = Run(machine.vm, Orders(), machine.image)
    control.start()
    return Session(control=control)
