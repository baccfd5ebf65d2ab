"""The shell's commands about itself: ``help``, ``quit``."""

from __future__ import annotations

from breenix_gdbagent.commands.shell.line import Line, arguments
from breenix_gdbagent.commands.shell.session import Quit, Session
from breenix_gdbagent.commands.shell.texts import explained, find, overview


def do_help(session: Session, line: Line) -> int:
    options = arguments(line, ("command", "?"))
    if options.command is not None:
        print(explained(find(options.command), session.screen.width))
    else:
        print(overview(session.screen.width))
    return 0


def do_quit(session: Session, line: Line) -> int:
    arguments(line)
    raise Quit
