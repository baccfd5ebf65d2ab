"""Who may let the guest run, when the shell and the user's own gdb both want to.

Whoever lets the guest run has it until it is stopped again; meanwhile the others are told so and
may only ask it to stop. Everybody sees every stop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import InputError

if TYPE_CHECKING:
    from breenix_gdbagent.debugger.debugger import Debugger
    from breenix_gdbagent.debugger.stop_event import StopEvent

    Listener = Callable[[str, StopEvent], None]
    Job = Callable[[], StopEvent]

SHELL, GDB, PYTHON = "the shell", "gdb", "Python"
"""Who may run the guest, as the others are told."""


class Arbiter:
    """`owner` is who runs the guest now, "" while it is stopped. `stops` counts runs in which the
    guest has moved; `listeners` are called after each run."""

    def __init__(self, debugger: Debugger) -> None:
        self.debugger = debugger
        self.owner = ""
        self.stops = 0
        self.listeners: list[Listener] = []
        self._turn = threading.RLock()

    def run(self, who: str, job: Job) -> StopEvent:
        """Do `job`, which lets the guest run, and tell everybody of the stop it came to.

        Waits while somebody else only looks. Raises `InputError` when somebody else runs it, and
        what `job` raises.
        """
        with self.while_stopped(wait=True):
            self.owner, before = who, self.debugger.vm.epoch
            try:
                event = job()
            finally:
                self.owner = ""
                self.stops += self.debugger.vm.epoch != before
            for listener in list(self.listeners):
                listener(who, event)
            return event

    def interrupt(self) -> bool:
        """Ask a running guest to stop, from any thread; False when it is stopped."""
        if not self.owner:
            return False
        self.debugger.vm.ask_to_stop()
        return True

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Waits for the end of a run of somebody else's; the guest is stopped meanwhile."""
        with self._turn:
            yield

    @contextmanager
    def while_stopped(self, *, wait: bool = False) -> Iterator[None]:
        """The guest is stopped meanwhile. Raises `InputError` when somebody runs it; with `wait`
        somebody who only looks at it is waited for."""
        while not self._turn.acquire(timeout=0.05):
            if self.owner or not wait:
                raise InputError(
                    f"the guest is running (for {self.owner or 'a moment'})", fix="Ctrl-C stops it"
                )
        try:
            yield
        finally:
            self._turn.release()
