"""A Debug Adapter Protocol client of somebody else's, at the other end of ``breenix-gdbagent dap``:
it writes the requests, and holds every answer and event against the protocol's types."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from dap import Client
from dap.handler import Handler

from breenix_gdbagent.editors.wire import framed, read_message
from tests.gdb import gdb_command

BARE = {
    "launch", "attach", "configurationDone", "disconnect", "terminate", "next", "stepIn", "stepOut",
    "stepBack", "reverseContinue", "pause", "setExceptionBreakpoints",
}  # fmt: skip
"""Answers without a body, which dap-python 0.5.0 takes for the whole answer and refuses."""
LIKE_LINES = ("setFunctionBreakpoints", "setInstructionBreakpoints")
ADAPTER = (sys.executable, "-m", "breenix_gdbagent", "dap")


class Bodies(Handler):
    """The library's own, but for answers that have no body, and for those of two requests that it
    takes for the request's breakpoints and not for the answer's."""

    def handle_response(self, response: Any) -> Any:
        if response.success and response.command in BARE:
            self.client._pending_requests.pop(response.request_seq)
            return response
        if response.success and response.command in LIKE_LINES:
            self.client._pending_requests[response.request_seq].command = "setBreakpoints"
            response.command = "setBreakpoints"
        if response.success and response.command == "exceptionInfo":
            response.body["exceptionID"] = response.body.pop("exceptionId")  # as it spells it
        return super().handle_response(response)


    def handle_event(self, event: Any) -> Any:
        """Numbers of breakpoints are numbers, and texts to this library."""
        body = event.body or {}
        if "hitBreakpointIds" in body:
            body["hitBreakpointIds"] = [str(one) for one in body["hitBreakpointIds"]]
        return super().handle_event(event)


class Editor:
    """One session. `events` are those that came, by class name and body, the oldest first."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.client = Client("breenix")
        self.client.handler = Bodies(self.client)
        self.events: list[tuple[str, Any]] = []
        self.ready: Any = self._answer()

    def ask(self, command: str, **arguments: Any) -> Any:
        """The answer to a request, as the protocol's type."""
        self.client.send_request(command, arguments)
        return self._answer()

    def wait(self, event: str) -> Any:
        """The next event of that class that nobody has waited for yet."""
        while True:
            for place, (name, body) in enumerate(self.events):
                if name == event:
                    del self.events[: place + 1]
                    return body
            self._receive()

    def output(self) -> str:
        """What the debug console has been told and was not waited past."""
        return "".join(body.output for name, body in self.events if name == "OutputEvent")

    def begin(self, **arguments: Any) -> None:
        """Launch, and wait until points may be set."""
        self.ask("launch", **arguments)
        self.wait("InitializedEvent")

    def _answer(self) -> Any:
        self._answers: list[Any] = []
        while not self._answers:
            self._receive()
        return self._answers.pop()

    def _receive(self) -> None:
        written = self.client.send()
        if written:
            assert self.process.stdin is not None
            self.process.stdin.write(written)
            self.process.stdin.flush()
        assert self.process.stdout is not None
        data = self.process.stdout.read(1 << 16)
        assert data, "the adapter has ended"
        for one in self.client.receive(data):
            name = type(one).__name__
            if name.endswith("Event"):
                self.events.append((name, one))
            else:
                self._answers.append(one)


@contextmanager
def gdbs_adapter(*options: str) -> Iterator[Callable[..., dict[str, Any]]]:
    """gdb's own adapter, whose messages the library refuses (bodies and names are left out): ask it
    a request, and get the answer's body."""
    process = subprocess.Popen(
        gdb_command("--interpreter=dap", *options), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    numbers = count(1)

    def ask(command: str, **arguments: Any) -> dict[str, Any]:
        number = next(numbers)
        asked = {"seq": number, "type": "request", "command": command, "arguments": arguments}
        stdin.write(framed(asked))
        stdin.flush()
        if command == "attach":
            return {}  # it answers when it has been configured
        while message := read_message(stdout):
            if message.get("request_seq") == number:
                assert message["success"], message
                body = message.get("body")
                return body if isinstance(body, dict) else {}
        raise EOFError("gdb has ended")

    try:
        yield ask
    finally:
        process.kill()
        process.wait()


@contextmanager
def editor(*options: str) -> Iterator[Editor]:
    """An adapter of ours and an editor at it."""
    process = subprocess.Popen(
        [*ADAPTER, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    try:
        found = Editor(process)
        yield found
        found.ask("disconnect")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
