"""The prompt: line editing, history and completion."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from breenix_gdbagent.commands.shell.session import COMMANDS, Quit, Session

MOST_SYMBOLS = 200
TAKES_SYMBOL = {"break", "walk", "symbol", "disassemble", "list", "print"}


class ShellCompleter(Completer):
    """Commands first, then symbols of the kernel where a command takes one."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        words = document.text_before_cursor.split(" ")
        last = words[-1]
        if len(words) == 1:
            for name, one in COMMANDS.items():
                if name.startswith(last):
                    yield Completion(name, -len(last), display_meta=one.help)
            return
        control = self.session.control
        image = control.image if control is not None else None
        if image is None or words[0] not in TAKES_SYMBOL or len(last) < 2:
            return
        for count, symbol in enumerate(image.find(last)):
            if count >= MOST_SYMBOLS:
                return
            yield Completion(symbol.name, -len(last))


def converse(session: Session) -> int:
    """Read and run commands until the user leaves."""
    prompt: PromptSession[str] = PromptSession(
        history=_history(), completer=ShellCompleter(session), complete_while_typing=False
    )
    code = 0
    while True:
        try:
            line = prompt.prompt(session.prompt)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return code
        try:
            code = session.execute(line)
        except Quit:
            return code


def _history() -> History:
    """Kept per user; in memory where the place cannot be written."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    place = base / "breenix-gdbagent"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with (place / "history").open("a", encoding="utf-8"):
            pass
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(place / "history"))
