"""The shell's commands about itself: ``help``, ``source``, ``quit``."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.commands.shell.line import Line, arguments
from breenix_gdbagent.commands.shell.session import Quit, Session
from breenix_gdbagent.commands.shell.texts import explained, find, overview
from breenix_gdbagent.errors import InputError


def do_help(session: Session, line: Line) -> int:
    options = arguments(line, ("command", "?"))
    if options.command is not None:
        print(explained(find(options.command), session.screen.width))
    else:
        print(overview(session.screen.width))
    return 0


def do_source(session: Session, line: Line) -> int:
    directory = Path(arguments(line, ("directory", "")).directory).expanduser()
    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}")
    session.sources.insert(0, directory)
    return 0


def do_quit(session: Session, line: Line) -> int:
    arguments(line)
    raise Quit
