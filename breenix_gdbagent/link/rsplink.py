"""One conversation in the remote protocol over a blocking socket, in the caller's thread.

Every wait has a deadline and ends in a typed error that says what was asked and how long. A
request that timed out keeps its place in the codec: its late answer is dropped when it comes and
never taken for another's.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence

from breenix_gdbagent.errors import LinkClosed, LinkProtocolError, LinkTimeout
from breenix_gdbagent.link import rsp
from breenix_gdbagent.link.deadline import Deadline

_RECEIVE = 1 << 18


class RspLink:
    """The socket and the codec together; knows nothing of what the packets mean."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.name = name
        self.closed = False
        self.stops: list[bytes] = []
        self.console = bytearray()
        self._sock = sock
        self._codec = rsp.Connection()

    @property
    def junk(self) -> bytes:
        """What came that was no packet (at most 64 bytes)."""
        return self._codec.junk

    def ask(
        self, requests: Sequence[bytes], seconds: float, *, then: bytes | None = None
    ) -> list[bytes]:
        """The answers to all `requests`, sent in one write; a stop reply is an answer to ``?``.

        `then` goes out in the same write and lets the guest run: nothing may follow it, because
        any byte stops a running guest (QEMU gdbstub.c, gdb_read_byte).
        All or nothing: with one answer lost none is returned, so no answer is ever another's.
        Raises `LinkTimeout`, `LinkClosed`, `LinkProtocolError`.
        """
        self._check_open()
        if not requests and then is None:
            return []
        deadline = Deadline(seconds)
        commands = [rsp.Command(r, awaits_stop=r == b"?") for r in requests]
        sent = commands if then is None else [*commands, rsp.Command(then, awaits_stop=True)]
        data = b"".join([self._codec.send(c) for c in sent])
        self._write(data, deadline, _named([c.payload for c in sent]))
        pending = set(commands)
        answers: dict[rsp.Command, bytes] = {}
        while pending:
            event = self._next(deadline, _named([c.payload for c in commands if c in pending]))
            if isinstance(event, (rsp.Reply, rsp.Stopped)) and event.command in pending:
                answers[event.command] = event.payload
                pending.discard(event.command)
            elif isinstance(event, rsp.Lost) and event.command in pending:
                raise LinkProtocolError(
                    f"{self.name} lost its answer to {_named([event.command.payload])}"
                )
        return [answers[c] for c in commands]

    def post(self, request: bytes, *, awaits_stop: bool = True) -> None:
        """Send without waiting: what makes the guest run, or the last word before a close."""
        self._check_open()
        command = rsp.Command(request, awaits_stop=awaits_stop)
        self._write(self._codec.send(command), Deadline(5), _named([request]))

    def interrupt(self) -> None:
        """The break byte; the stop reply comes by `wait_stop`."""
        self._check_open()
        self._write(self._codec.send(rsp.Interrupt()), Deadline(5), "an interrupt")

    def wait_stop(self, deadline: Deadline, wake: Sequence[socket.socket] = ()) -> bytes | None:
        """The next stop reply; None when the deadline passed or a `wake` socket is readable.

        A stub that refuses to run answers with another packet: `LinkProtocolError`.
        """
        while True:
            if self.stops:
                return self.stops.pop(0)
            self._check_open()
            event = self._event()
            if isinstance(event, rsp.Reply) and event.command and event.command.awaits_stop:
                raise LinkProtocolError(
                    f"{self.name} answered {_named([event.command.payload])} with "
                    f"{event.payload[:40].decode('latin-1')!r} and did not run"
                )
            if event is None and not self._readable(deadline, wake):
                return None
            if event is None:
                self._receive(Deadline(0.1), "the stop reply")

    def take_stops(self) -> list[bytes]:
        """Stop replies that came unasked so far."""
        taken, self.stops = self.stops, []
        return taken

    def close(self) -> None:
        """Close the socket. What is in flight is given up."""
        self.closed = True
        self._sock.close()

    def _check_open(self) -> None:
        if self.closed:
            raise LinkClosed(f"the connection to {self.name} is closed")

    def _readable(self, deadline: Deadline, wake: Sequence[socket.socket]) -> bool:
        """Whether our socket became readable, and not first a wake socket or the deadline."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        for sock in wake:
            poll.register(sock, select.POLLIN)
        left = deadline.left()
        ready = poll.poll(None if left is None else left * 1000)
        return any(fd == self._sock.fileno() for fd, _ in ready)

    def _next(self, deadline: Deadline, request: str) -> rsp.Event:
        while True:
            event = self._event()
            if event is not None:
                return event
            self._receive(deadline, request)

    def _event(self) -> rsp.Event | None:
        """The codec's next event; what answers nothing is put aside, what is owed is sent."""
        try:
            event = self._codec.next_event()
        except rsp.RemoteProtocolError as error:
            self.close()
            raise LinkProtocolError(
                f"{self.name} broke the protocol: {error}", f"it sent {error.data!r}"
            ) from error
        if isinstance(event, (rsp.Damaged, rsp.Resent)):
            self._write(self._codec.data_to_send(), Deadline(5), "a packet again")
        elif isinstance(event, rsp.Stopped) and not _answers_query(event):
            self.stops.append(event.payload)
        elif isinstance(event, rsp.Console):
            self.console += event.text
        elif isinstance(event, rsp.Closed):
            self.close()
            raise LinkClosed(f"{self.name} closed the connection")
        return event

    def _receive(self, deadline: Deadline, request: str) -> None:
        left = deadline.left()
        try:
            # A timeout of 0 would make the socket non-blocking, whose error is another one.
            self._sock.settimeout(left or 1e-6)
            data = self._sock.recv(_RECEIVE)
        except TimeoutError as error:
            raise LinkTimeout(request, deadline.seconds or 0) from error
        except OSError as error:
            self.close()
            raise LinkClosed(f"the connection to {self.name} broke", str(error)) from error
        self._codec.receive_data(data)

    def _write(self, data: bytes, deadline: Deadline, request: str) -> None:
        try:
            self._sock.settimeout(deadline.left() or 1e-6)
            self._sock.sendall(data)
        except TimeoutError as error:
            # Part of a packet may be out: nothing after it could be understood.
            self.close()
            raise LinkTimeout(request, deadline.seconds or 0) from error
        except OSError as error:
            self.close()
            raise LinkClosed(f"the connection to {self.name} broke", str(error)) from error


def _answers_query(event: rsp.Stopped) -> bool:
    return event.command is not None and event.command.payload == b"?"


def _named(requests: Sequence[bytes]) -> str:
    """Requests as an error names them: the oldest that is not answered."""
    first = requests[0][:40].decode("latin-1")
    return f"{first!r}" if len(requests) == 1 else f"{first!r} and {len(requests) - 1} more"
