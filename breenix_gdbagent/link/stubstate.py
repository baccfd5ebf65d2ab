"""What may be asked of a guest behind a gdbstub, and what leads from one state to another.

The whole machine is here: `_NEXT` says which state follows which, `Stateful._set_state` is the only
place that changes one, and `require` is how a method says in which it may be called.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from breenix_gdbagent.errors import LinkClosed, StateError


class RunState(Enum):
    """STOPPED: asks are answered. RUNNING: any byte would stop it. SHUTDOWN: paused for good."""

    STOPPED = "stopped"
    RUNNING = "running"
    SHUTDOWN = "shutdown"
    CLOSED = "closed"


_NEXT = {
    RunState.STOPPED: {RunState.STOPPED, RunState.RUNNING, RunState.SHUTDOWN, RunState.CLOSED},
    RunState.RUNNING: {RunState.STOPPED, RunState.SHUTDOWN, RunState.CLOSED},
    RunState.SHUTDOWN: {RunState.STOPPED, RunState.SHUTDOWN, RunState.CLOSED},
    RunState.CLOSED: {RunState.CLOSED},
}
"""Where each state leads: out of a shutdown only a reset does, out of a closed connection nothing.
A stop that came unasked confirms STOPPED."""

_MISUSE = {
    RunState.RUNNING: ("the guest is running", "any packet would stop it", "interrupt it first"),
    RunState.SHUTDOWN: (
        "the guest has shut down, or QEMU gave up on it, and cannot go on",
        "QEMU answers no continue in that state",
        "reset it (QMP system_reset) or start it again",
    ),
    RunState.STOPPED: ("the guest is stopped", "", "let it run first"),
}

_Self = TypeVar("_Self", bound="Stateful")
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def require(
    *states: RunState,
) -> Callable[
    [Callable[Concatenate[_Self, _Given], _Result]], Callable[Concatenate[_Self, _Given], _Result]
]:
    """A method that may be called in these states only; in another one it raises `StateError` and
    nothing is sent (after qemu.qmp's ``require``)."""

    def guarded(
        method: Callable[Concatenate[_Self, _Given], _Result],
    ) -> Callable[Concatenate[_Self, _Given], _Result]:
        @wraps(method)
        def checked(self: _Self, /, *args: _Given.args, **more: _Given.kwargs) -> _Result:
            self.need(*states)
            return method(self, *args, **more)

        return checked

    return guarded


class Stateful:
    """A conversation with a guest that is in one `RunState`; `name` is what errors call it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._state = RunState.STOPPED

    @property
    def state(self) -> RunState:
        """What may be asked of the guest now."""
        return self._state

    def need(self, *states: RunState) -> None:
        """Raises `StateError` when the guest is in none of these states, `LinkClosed` when it is
        gone."""
        if self._state not in states:
            if self._state is RunState.CLOSED:
                raise LinkClosed(f"the connection to {self._name} is closed")
            what, why, fix = _MISUSE[self._state]
            raise StateError(self._state.value, tuple(s.value for s in states), what, why, fix)

    def _set_state(self, state: RunState) -> None:
        """The only place that changes it."""
        if state not in _NEXT[self._state]:
            self.need(*(before for before, after in _NEXT.items() if state in after))
        self._state = state

    @require(RunState.STOPPED, RunState.SHUTDOWN)
    def found_over(self) -> None:
        """QEMU's monitor says that the guest is paused for good."""
        self._set_state(RunState.SHUTDOWN)

    def was_reset(self) -> None:
        """The machine was reset and stands before its first instruction."""
        self._set_state(RunState.STOPPED)

    def has_ended(self) -> None:
        """QEMU, or the connection to it, is gone."""
        self._set_state(RunState.CLOSED)
