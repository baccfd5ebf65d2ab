"""``shell``: run control and every reader and check at one prompt, on a live guest or a snapshot.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.commands import Parser, Spelled, seconds
from breenix_gdbagent.commands.target import Target, add_target_options, target_of
from breenix_gdbagent.errors import InputError

if TYPE_CHECKING:
    from breenix_gdbagent.commands.shell.screen import Screen
    from breenix_gdbagent.commands.shell.session import Session
    from breenix_gdbagent.debugger.stop_event import StopEvent


SCRIPT_SECONDS = 60.0
"""Seconds of one run under -c and --batch, so that no script hangs."""


def run(name: str, argv: list[str]) -> int:
    """``shell``, see the parser."""
    options = build(name).parse_args(argv)
    target = target_of(options, default_lab=True)
    lines = _script(options.command, options.batch)
    if lines is not None and options.ipython:
        raise InputError("--ipython with commands", fix="give one of them")
    named = str(options.batch or "")
    if lines is None and not options.ipython and not sys.stdin.isatty():
        lines, named = sys.stdin.read().splitlines(), "standard input"
    for directory in options.source:
        if not directory.is_dir():
            raise InputError(f"there is no directory {directory}")
    gc.disable()  # what is made now stays: to look for rubbish takes a tenth of the start
    with ExitStack() as leave:
        session = _open(target, leave, terminal=lines is None and sys.stdout.isatty())
        session.sources += [*options.source, *_sources(target, session)]
        session.writes = options.write
        session.left = options.timeout
        if lines is not None:
            session.limit = SCRIPT_SECONDS if options.timeout is None else None
            gc.enable()
            return session.run_script(lines, named)
        if options.ipython:
            gc.enable()
            from breenix_gdbagent.commands.shell.outside import embed

            return embed(session)
        from breenix_gdbagent.commands.shell.prompt import converse

        gc.enable()
        _greet(session, options)
        return converse(session)


def _greet(session: Session, options: argparse.Namespace) -> None:
    """Two lines: who this is and what it looks at; then the user's own commands."""
    from breenix_gdbagent.commands.shell.scripting import run_file
    from breenix_gdbagent.version import VERSION

    state = "a snapshot" if session.arbiter is None else "not started: continue runs it"
    wrote = "; --write: the guest may be changed" if session.writes else ""
    session.screen.write(f"breenix-gdbagent {VERSION} on {session.target.kind}, {state}{wrote}")
    session.screen.write("help lists the commands, help WORD finds one by gdb's word for it too")
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    own = base / "breenix-gdbagent" / "shellrc"
    if not options.no_rc and own.is_file():
        run_file(session, own)


def build(name: str) -> Parser:
    """The options of `shell`."""
    parser = Parser("breenix-gdbagent shell")
    add_target_options(parser)
    parser.add_argument("-c", dest="command", action="append", metavar="CMD", help="run and leave")
    parser.add_argument("--batch", type=Path, metavar="FILE", help="run the commands of a file")
    parser.add_argument(
        "--source", type=Path, action="append", default=[], metavar="DIR",
        help="where the kernel's source lies",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=seconds, metavar="S",
        help=f"seconds that the guest may run in all; without it {SCRIPT_SECONDS:.0f} a command in "
        "scripts, exit 4 where that ends one",
    )  # fmt: skip
    parser.add_argument(
        "--write", action=Spelled, nargs=0, default=False,
        help="let `set` and `interrupt VECTOR at` change the guest",
    )  # fmt: skip
    parser.add_argument("--no-rc", action="store_true", help="leave the user's shellrc alone")
    parser.add_argument(
        "--ipython", action="store_true", help="Python with `vm`, `stop` and `kernel` bound"
    )
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


def _open(target: Target, leave: ExitStack, *, terminal: bool) -> Session:
    """A session on the target; what it holds is let go when `leave` closes."""
    from breenix_gdbagent.commands.shell.screen import Screen
    from breenix_gdbagent.commands.shell.session import Session

    screen = Screen(terminal)
    if target.kind == "replay":
        return _replayed(target, leave, screen)
    if not target.runs:
        from breenix_gdbagent.commands.target import explained_snapshot

        return Session(screen, target, stop=explained_snapshot(target)[0])
    from breenix_gdbagent.commands.machines import open_machine
    from breenix_gdbagent.debugger.debugger import Debugger

    machine = open_machine(target)
    leave.enter_context(machine.vm)
    debugger = Debugger(machine.vm, machine.image)
    debugger.start()
    session = Session(screen, target, debugger=debugger)
    session.show = _show
    leave.callback(session.close)
    return session


def _replayed(target: Target, leave: ExitStack, screen: Screen) -> Session:
    """A session on a recording, at the moment that ``--at`` names, by itself its end."""
    from breenix_gdbagent.commands.shell.session import Session
    from breenix_gdbagent.timeline.player import Player
    from breenix_gdbagent.timeline.travel import Traveller, debugger_of

    player = leave.enter_context(Player(target.options.replay, target.options.kernel))
    debugger = debugger_of(player)
    session = Session(screen, target, debugger=debugger)
    session.traveller = travel = Traveller(player, debugger)
    session.show = _show
    leave.callback(session.close)
    event = travel.go_to(travel.moment(target.options.at or "end"))
    session.take(debugger.stop(event.reason))
    return session


def _show(session: Session, event: StopEvent) -> str:
    """The view of a stop, and what there is to note of it."""
    from breenix_gdbagent.commands.shell.context import context, notes
    from breenix_gdbagent.commands.shell.scripting import displayed

    text = context(session, event, session.screen.width)
    parts = (text, notes(session, event), *displayed(session))
    return "\n".join(part for part in parts if part)


def _sources(target: Target, session: Session) -> list[Path]:
    """Where the source may lie: the user's checkout, or ours of the lab guest."""
    from breenix_gdbagent import lab

    if target.options.breenix is not None:
        return [target.options.breenix]
    kernel = session.known
    image = kernel.stop.image if kernel is not None else None
    ours = image is not None and image.image.path in lab.elfs()
    return lab.sources() if target.kind == "lab" or ours else []
