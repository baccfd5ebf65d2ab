"""One conversation in the remote protocol over a socket, blocking, in the caller's thread.

Every wait has a deadline and ends in a typed error that says what was asked and how long. A
request that timed out keeps its place in the codec: its late answer is dropped when it comes and
never taken for another's.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from breenix_gdbagent.errors import LinkClosed, LinkProtocolError, LinkTimeout, ResumeRefused
from breenix_gdbagent.link import rsp
from breenix_gdbagent.link.deadline import Deadline

_RECEIVE = 1 << 16
_A = TypeVar("_A")
_T = TypeVar("_T")


class RspLink:
    """The socket and the codec together; knows nothing of what the packets mean."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.name = name
        self.closed = False
        self.stops: list[bytes] = []
        self.console = bytearray()
        sock.setblocking(False)
        self._sock = sock
        # One buffer for all: a new one of this size for each call costs more than the packet.
        self._into = memoryview(bytearray(_RECEIVE))
        self._codec = rsp.Connection()
        self._polls: dict[tuple[int, ...], select.poll] = {}

    @property
    def junk(self) -> bytes:
        """What came that was no packet (at most 64 bytes)."""
        return self._codec.junk

    @property
    def peer(self) -> int:
        """Process id of who is at the other end, 0 where that is not known."""
        from breenix_gdbagent.link.peer import peer

        return 0 if self.closed else peer(self._sock)

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
        return self._collect(self._send(requests, then, deadline), deadline)

    def stream(
        self, flights: Iterable[Sequence[bytes]], seconds: float
    ) -> Iterator[tuple[list[bytes], list[bytes | None]]]:
        """(answers, bytes) of each flight of requests; `bytes` has what an answer of plain hex
        digits stands for (its entry in `answers` is then empty), None for any other.

        The next flight is always sent before the answers to one are waited for: the stub works
        while we decode. A flight must be small enough for the socket's buffer (4 KiB of requests
        is), or both sides could wait for each other. `seconds` is for one flight. Raises as `ask`
        does.
        """
        self._check_open()
        ahead: deque[list[rsp.Command]] = deque()
        for flight in flights:
            ahead.append(self._send(flight, None, Deadline(seconds)))
            if len(ahead) > 1:
                yield self._decoded(ahead.popleft(), Deadline(seconds))
        while ahead:
            yield self._decoded(ahead.popleft(), Deadline(seconds))

    def _decoded(
        self, commands: list[rsp.Command], deadline: Deadline
    ) -> tuple[list[bytes], list[bytes | None]]:
        decoded: dict[rsp.Command, bytes] = {}
        answers = self._collect(commands, deadline, decoded)
        return answers, [decoded.get(c) for c in commands]

    def _send(
        self, requests: Sequence[bytes], then: bytes | None, deadline: Deadline
    ) -> list[rsp.Command]:
        commands = [rsp.Command(r, awaits_stop=r == b"?") for r in requests]
        sent = commands if then is None else [*commands, rsp.Command(then, awaits_stop=True)]
        data = b"".join([self._codec.send(c) for c in sent])
        self._write(data, deadline, _named([c.payload for c in sent]))
        return commands

    def _collect(
        self,
        commands: list[rsp.Command],
        deadline: Deadline,
        decoded: dict[rsp.Command, bytes] | None = None,
    ) -> list[bytes]:
        """All answers, in the order of the commands; hex ones into `decoded` where it is given."""
        answers: dict[rsp.Command, bytes] = {}
        mine = set(commands)
        while len(answers) < len(commands):
            while decoded is not None and (found := self._codec.next_memory()) is not None:
                command, data = found
                if command in mine:
                    decoded[command] = data
                    answers[command] = b""
            if len(answers) == len(commands):
                break
            event = self._event()
            if event is None:
                try:
                    self._receive(deadline)
                except TimeoutError as error:
                    missing = [c.payload for c in commands if c not in answers]
                    raise LinkTimeout(_named(missing), deadline.seconds or 0) from error
            elif isinstance(event, (rsp.Reply, rsp.Stopped)) and event.command in mine:
                answers[event.command] = event.payload
            elif isinstance(event, rsp.Lost) and event.command in mine:
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

        A stub that refuses to run answers with another packet: `ResumeRefused`.
        """
        while True:
            if self.stops:
                return self.stops.pop(0)
            self._check_open()
            event = self._event()
            if isinstance(event, rsp.Reply) and event.command and event.command.awaits_stop:
                raise ResumeRefused(
                    f"{self.name} answered {_named([event.command.payload])} with "
                    f"{event.payload[:40].decode('latin-1')!r} and did not run"
                )
            if event is None and not self._readable(deadline, wake):
                return None
            if event is None:
                with suppress(TimeoutError):
                    self._receive(Deadline(0))

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
        ours = self._sock.fileno()
        ready = self._poll(deadline, select.POLLIN, ours, *(sock.fileno() for sock in wake))
        return any(fd == ours for fd, _ in ready)

    def _poll(self, deadline: Deadline, event: int, *files: int) -> list[tuple[int, int]]:
        """Wait for `event` of one of the files. What waits for them is made once: it is wanted at
        every stop."""
        poll = self._polls.get((event, *files))
        if poll is None:
            poll = self._polls[event, *files] = select.poll()
            for file in files:
                poll.register(file, event)
        left = deadline.left()
        return poll.poll(None if left is None else left * 1000)

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

    def _receive(self, deadline: Deadline) -> None:
        """More bytes for the codec. Raises `TimeoutError`, `LinkClosed`."""
        try:
            size = self._patient(self._sock.recv_into, self._into, select.POLLIN, deadline)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._broken(error) from error
        self._codec.receive_data(bytes(self._into[:size]))

    def _write(self, data: bytes, deadline: Deadline, request: str) -> None:
        left = data
        try:
            while left:
                left = left[self._patient(self._sock.send, left, select.POLLOUT, deadline) :]
        except TimeoutError as error:
            # Part of a packet may be out: nothing after it could be understood.
            self.close()
            raise LinkTimeout(request, deadline.seconds or 0) from error
        except OSError as error:
            raise self._broken(error) from error

    def _patient(
        self, call: Callable[[_A], _T], argument: _A, event: int, deadline: Deadline
    ) -> _T:
        """What `call(argument)` gives, once the socket is ready for it.

        Raises `TimeoutError`, `OSError`.
        """
        while True:
            try:
                return call(argument)
            except BlockingIOError:
                if not self._poll(deadline, event, self._sock.fileno()):
                    raise TimeoutError from None

    def _broken(self, error: OSError) -> LinkClosed:
        self.close()
        return LinkClosed(f"the connection to {self.name} broke", str(error))


def _answers_query(event: rsp.Stopped) -> bool:
    return event.command is not None and event.command.payload == b"?"


def _named(requests: Sequence[bytes]) -> str:
    """Requests as an error names them: the oldest that is not answered."""
    first = requests[0][:40].decode("latin-1")
    return f"{first!r}" if len(requests) == 1 else f"{first!r} and {len(requests) - 1} more"
