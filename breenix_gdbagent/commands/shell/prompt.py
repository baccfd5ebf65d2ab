"""The prompt: line editing, history, completion, the bottom bar, a guest that runs meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TextIO, cast

from prompt_toolkit import Application, PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import StdoutProxy

from breenix_gdbagent.commands.shell.completion import ShellCompleter
from breenix_gdbagent.commands.shell.screen import clipped
from breenix_gdbagent.commands.shell.session import INTERRUPTED, Quit, Session
from breenix_gdbagent.debugger.arbiter import SHELL
from breenix_gdbagent.errors import AgentError

REFRESH_SECONDS = 0.25
LEAVE_SECONDS = 5.0
WRITE_SECONDS = 0.01
ENDS_OPEN = ("\\", ",", " and", " or")


def converse(session: Session) -> int:
    """Read and run commands until the user leaves. The exit code is that of the last command."""
    if session.screen.dumb:
        return _plainly(session)
    prompt = _prompt_session(session)
    code = 0
    session.background = True
    session.echo_serial()
    with _above_the_prompt():
        while True:
            try:
                line = prompt.prompt()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return _left(session, code)
            try:
                with session.screen.paged():
                    code = session.execute(_joined(line))
            except Quit:
                return _left(session, code)
            except KeyboardInterrupt:
                code = INTERRUPTED
                session.screen.write("interrupted")


@contextmanager
def _above_the_prompt() -> Iterator[None]:
    """What is written meanwhile comes above the prompt, soon: ``patch_stdout`` as it is would hold
    each piece back for 0.2 s, and serial text is gathered before (`Echo`)."""
    with StdoutProxy(sleep_between_writes=WRITE_SECONDS, raw=True) as proxy:
        out = cast(TextIO, proxy)
        with redirect_stdout(out), redirect_stderr(out):
            yield


def _plainly(session: Session) -> int:
    """A terminal that can do nothing: a line at a time, and a run lasts until its end."""
    code = 0
    session.echo_serial()
    while True:
        try:
            line = input(session.prompt)
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            print()
            return code
        try:
            code = session.execute(_joined(line))
        except Quit:
            return code
        except KeyboardInterrupt:
            code = INTERRUPTED
            session.screen.write("interrupted")


def _left(session: Session, code: int) -> int:
    """A run that is going on ends before the guest is let go."""
    if session.arbiter is not None and session.arbiter.interrupt():
        session.settle(LEAVE_SECONDS)
    return code


def _joined(line: str) -> str:
    """Continued lines as one."""
    return " ".join(part.rstrip("\\").strip() for part in line.splitlines())


def _prompt_session(session: Session) -> PromptSession[str]:
    prompt: PromptSession[str] = PromptSession(
        message=lambda: FormattedText([("bold" if session.running else "", session.prompt)]),
        history=_history(),
        completer=ShellCompleter(session),
        complete_while_typing=False,
        complete_in_thread=True,
        auto_suggest=AutoSuggestFromHistory(),
        bottom_toolbar=lambda: bar(session, session.screen.width),
        key_bindings=_keys(session),
        multiline=Condition(lambda: _open_ended(prompt.default_buffer.text)),
        refresh_interval=REFRESH_SECONDS,
        enable_history_search=True,
    )

    def stopped() -> None:
        with suppress(Exception):
            prompt.app.invalidate()

    session.when_stopped = stopped
    _read_types(session, prompt)
    return prompt


def _read_types(session: Session, prompt: PromptSession[str]) -> None:
    """Read the kernel's types (a second for a large ELF) behind the first prompt, not before it."""
    image = session.image
    if image is None or not image.has_dwarf:
        return

    def read() -> None:
        with suppress(AgentError):  # whoever needs them says what is wrong with them
            image.debug.index  # noqa: B018
        session.types_read = True
        session.when_stopped()

    def drawn(app: Application[str]) -> None:
        prompt.app.after_render -= drawn
        threading.Thread(target=read, name="types", daemon=True).start()

    session.types_read = False
    prompt.app.after_render += drawn


def _open_ended(text: str) -> bool:
    """Whether Enter begins another line: after a backslash, a comma, `and`, `or`."""
    return text.rstrip(" ").endswith(ENDS_OPEN)


def _keys(session: Session) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("c-c", filter=Condition(lambda: session.running))
    def _interrupt(event: KeyPressEvent) -> None:
        """Ctrl-C stops the guest while it runs; else it does what it does at any prompt."""
        if session.arbiter is not None:
            session.arbiter.interrupt()

    return keys


def bar(session: Session, width: int) -> str:
    """The bottom bar: state, CPU, whose address space, running time, the last serial line."""
    parts = _running(session) if session.running else _stopped(session)
    line = "".join(c for c in session.screen.last_line if c.isprintable())
    if line:
        parts.append(line)
    return clipped(" | ".join(parts), max(width - 1, 10))


def _running(session: Session) -> list[str]:
    arbiter = session.arbiter
    if arbiter is None:
        return []
    state = "running" if arbiter.owner in (SHELL, "") else f"running for {arbiter.owner}"
    return [state, f"{arbiter.debugger.vm.clock.seconds():.1f} s"]


def _stopped(session: Session) -> list[str]:
    known = session.known
    if session.lost:
        return ["no answer: interrupt"]
    if known is None:
        return ["not started: continue"]
    cpu = session.view.stop.cpu
    parts = ["QEMU has ended" if session.ended else known.stop.reason.kind]
    if cpu.at is not None:
        parts.append(f"CPU {cpu.index}/{len(known.stop.cpus)} {cpu.privilege}")
        try:
            owner = session.space
        except AgentError:
            owner = ""
        cr3 = cpu.cr3
        if cr3 is not None:
            parts.append(owner or f"CR3 {cr3:#x}")
    if known.stop.seconds:
        parts.append(f"{known.stop.seconds:.3f} s")
    return parts


def _history() -> History:
    """Kept per user; in memory where the place cannot be written."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    place = base / "breenix-gdbagent"
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (place / "history").open("a", encoding="utf-8"):
            pass
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(place / "history"))
