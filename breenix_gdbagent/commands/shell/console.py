"""The guest's console: typed into by hand, line by line, or by a script."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breenix_gdbagent.commands.shell.line import Line, arguments
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.debugger.script import Step, parse_script
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.locations import parse_number

ESCAPE = 0x1D  # Ctrl-], as telnet has it
STEP_SECONDS = 60.0
TICK_SECONDS = 0.2


def do_send(session: Session, line: Line) -> int:
    session.debugger.vm.console.send(_line(line.text))
    return 0


def _line(text: str) -> bytes:
    return text.encode() + b"\n"


def do_script(session: Session, line: Line) -> int:
    """Each ``expect`` lets the guest run until its text comes; exit code 1 when one does not."""
    path = Path(arguments(line, ("file", "")).file).expanduser()
    try:
        steps = parse_script(path.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text file") from error
    code = session.run(lambda: played(session, steps))
    if session.background or session.event is None:
        return code
    return int(session.event.reason.kind != "marker")


def played(session: Session, steps: tuple[Step, ...]) -> StopEvent:
    """The steps one by one; the event after the last, or where the guest stopped for another
    reason."""
    debugger = session.debugger
    event: StopEvent | None = None
    for step in steps:
        if step.verb == "send":
            debugger.vm.console.send(_line(step.text))
            continue
        event = debugger.go([step.text], STEP_SECONDS)
        if event.reason.kind != "marker":
            return event
    if event is None:
        raise InputError("the script expects nothing", fix="add a line: expect REGEX")
    return event


def do_console(session: Session, line: Line) -> int:
    """The terminal is the guest's serial line until Ctrl-] is typed, or the guest stops."""
    options = arguments(line, ("port", "?"))
    port = parse_number(options.port) if options.port else 0
    vm = session.debugger.vm
    if not session.background or not sys.stdin.isatty():
        raise InputError("console needs a terminal", fix="in a script: send TEXT, wait REGEX")
    if port is None or port >= max(vm.console.ports, 1):
        raise InputError(f"{options.port} is no serial port", fix=f"there are {vm.console.ports}")
    if not session.running:
        session.screen.write("the guest runs on from this stop, to answer what is typed")
        session.run(lambda: session.debugger.go())
    session.screen.write("the terminal is the guest's serial line now; Ctrl-] comes back")
    with session.screen.raw(port), _keyboard() as keyboard:
        while session.running:
            if not select.select([keyboard], [], [], TICK_SECONDS)[0]:
                continue
            data = os.read(keyboard, 4096)
            if not data or ESCAPE in data:
                break
            vm.console.send(data, port)
    session.screen.write("")
    if session.running:
        session.screen.write("the guest runs on; Ctrl-C stops it")
    return 0


@contextmanager
def _keyboard() -> Iterator[int]:
    """The terminal, key by key; put back as it was."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
