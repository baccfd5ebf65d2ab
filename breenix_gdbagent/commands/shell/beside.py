"""gdb beside the shell: a bridge for the user's own gdb, and a gdb of ours that answers ``gdb
CMD``."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from breenix_gdbagent.commands.shell.line import Line
from breenix_gdbagent.commands.shell.session import Quit, Session
from breenix_gdbagent.commands.shell.texts import find
from breenix_gdbagent.debugger.gdb_bridge import GdbBridge
from breenix_gdbagent.debugger.stop_event import Say
from breenix_gdbagent.errors import AgentError
from breenix_gdbagent.link.rundir import RunDir

if TYPE_CHECKING:
    from breenix_gdbagent.link.mi import GdbMi

NOT_BY_MONITOR = ("control", "console", "outside")


class Beside:
    """Opened when first asked for; closed with the session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._bridge: GdbBridge | None = None
        self._own: GdbBridge | None = None
        self._gdb: GdbMi | None = None

    @classmethod
    def of(cls, session: Session) -> Beside:
        """The one of this session."""
        found = session.beside
        if not isinstance(found, Beside):
            found = session.beside = cls(session)
        return found

    def bridge(self) -> GdbBridge:
        """The bridge for the user's own gdb. Raises `InputError`, `OutputError`."""
        if self._bridge is None:
            self._bridge = self._open("gdb", self.session.screen.write)
        return self._bridge

    def gdb(self) -> GdbMi:
        """A gdb of ours behind a bridge of its own; another one when the last has ended. Raises
        `InputError`, `LinkError`."""
        if self._gdb is None or self._gdb.ended:
            from breenix_gdbagent.link.mi import GdbMi

            image = self.session.debugger.image
            gdb = GdbMi([str(image.path)] if image is not None else [])
            try:
                if self._own is None:
                    self._own = self._open("own-gdb", lambda line: None)
                gdb.console(f"target remote {self._own.server.path}")
            except BaseException:
                gdb.close()
                raise
            self.session.leave.append(gdb.close)
            self._gdb = gdb
        return self._gdb

    def _open(self, name: str, say: Say) -> GdbBridge:
        session = self.session
        session.debugger  # noqa: B018  (raises: a snapshot does not run)
        assert session.arbiter is not None
        room = RunDir(0)
        session.leave.append(room.close)
        travel = session.traveller
        back = None if travel is None else travel.backwards
        bridge = GdbBridge(session.arbiter, room.path / name, self.monitor, say, back)
        session.leave.append(bridge.close)
        return bridge

    def monitor(self, text: str) -> str:
        """A command for gdb's ``monitor``: what it prints, errors included."""
        name, _, rest = text.strip().partition(" ")
        kept = io.StringIO()
        try:
            command = find(name or "help")
            if command.module in NOT_BY_MONITOR:
                return f"{command.name} is not for `monitor`: use gdb's own\n"
            with redirect_stdout(kept):
                Session.function(command)(self.session, Line(command, rest.strip()))
        except AgentError as error:
            return f"{kept.getvalue()}{error}\n"
        except (Quit, SystemExit):
            return "the shell stays\n"
        return kept.getvalue()
