"""The GDB Remote Serial Protocol as bytes in, events out: no socket, no clock, no thread.

Theory of operation
===================

Three calls, in the shape of h11. `receive_data(bytes)` takes what came from the peer, in pieces
of any size. `next_event()` gives the next `Event`, or None when more bytes are needed.
`send(message)` gives the bytes to write. Acknowledgements are owed, not written at once: they go
out in front of the next `send`, or by `data_to_send()`. QEMU takes the ``$`` of a next command
as the acknowledgement of its last reply (QEMU gdbstub/gdbstub.c, gdb_read_byte), and a write of
one byte for every reply is what fills the socket of a stub that is still writing.

**Frames.** ::

    $ payload # hh      packet; hh = sum of the payload bytes as sent, modulo 256
    % payload # hh      notification: never acknowledged, never repeated
    + -                 the last packet arrived whole / damaged, send it again
    0x03                interrupt, client to stub, outside any packet

Inside a payload ``}`` escapes the next byte (XOR 0x20), and in what a stub sends ``*`` repeats
the byte before it: the byte after the star minus 29 times more. QEMU never sends run lengths;
other stubs do.

**Which reply answers which command.** A stub handles commands strictly one after another:
it acknowledges one, answers it, then looks at the next. So many commands may be in flight, and
for a client each incoming byte moves commands through two places::

    sent ──"+"──> acknowledged ──packet──> answered          Reply(payload, command)
      │                │
      └─"-"─> to the end of `sent`, written again            Resent(command)
                       └─ next "+" before its packet ──────> Lost(command)

| incoming                  | oldest sent      | acknowledged | event                      |
|---------------------------|------------------|--------------|----------------------------|
| ``+``                     | moves on         | unanswered   | Lost(the unanswered one)   |
| ``+``                     | moves on         | none         |                            |
| ``-``                     | to the end again | any          | Resent                     |
| stop reply                | any              | a run        | Stopped(command)           |
| stop reply                | any              | other, none  | Stopped(None): unsolicited |
| packet                    | any              | any          | Reply(command)             |
| packet, equal to the last | any              | none         | Repeated: our + was lost   |
| packet                    | there is one     | none         | Reply(oldest): + was lost  |
| packet                    | none             | none         | Reply(None): a stray       |
| damaged packet            | one in all       |              | Damaged, ``-`` is owed     |
| damaged packet            | more             |              | Lost(command)              |
| console ``O`` packet      | any              | any          | Console                    |

With more than one in flight a ``-`` would ask for another command's reply. "A run" is a command
that ends in a stop reply; a plain packet answers it too (a refusal, a detach's OK).
A command whose reply is late stays in its place, so the reply is never taken for another's.

**Whose fault.** `LocalProtocolError`: the caller asked for what no peer would understand.
`RemoteProtocolError`: the peer sent what the protocol does not allow; after it, and after
`Closed`, no more events come.

**Bounds.** A packet may not grow beyond `max_packet` bytes, decoded or not; bytes that belong to
no packet are dropped, the first 64 kept in `junk` (a QMP greeting there tells of a wrong
address); a packet is asked for again at most `resend_limit` times, either way.

Sources: gdb manual, appendix "Remote Serial Protocol" (Overview, Packet Acknowledgment,
Notification Packets); QEMU gdbstub.c.
"""

from __future__ import annotations

import re
from binascii import Error as HexError
from binascii import unhexlify
from collections import deque

from breenix_gdbagent.link.rsp_events import (
    Closed,
    Command,
    Console,
    Damaged,
    Event,
    Interrupt,
    LocalProtocolError,
    Lost,
    Message,
    Notification,
    Packet,
    RemoteProtocolError,
    Repeated,
    Reply,
    Resent,
    Role,
    RspError,
    Stopped,
)
from breenix_gdbagent.link.rsp_frames import MAX_PACKET, checksum, escape, frame, unescape

__all__ = [
    "Closed",
    "Command",
    "Connection",
    "Console",
    "Damaged",
    "Event",
    "Interrupt",
    "LocalProtocolError",
    "Lost",
    "Message",
    "Notification",
    "Packet",
    "RemoteProtocolError",
    "Repeated",
    "Reply",
    "Resent",
    "Role",
    "RspError",
    "Stopped",
    "checksum",
    "escape",
    "frame",
    "unescape",
]

RESEND_LIMIT = 3
INTERRUPT = b"\x03"

_STOP = re.compile(rb"[ST][0-9a-fA-F]{2}|[WX][0-9a-fA-F]{2}")
_CONSOLE = re.compile(rb"O(?:[0-9a-fA-F]{2})+")
_MARKS = re.compile(rb"[$%+\-\x03]")
_STOPS = frozenset((b"S", b"T", b"W", b"X"))


class Connection:
    """One side of one conversation; see the module's docstring for how it works."""

    def __init__(
        self,
        role: Role = Role.CLIENT,
        *,
        max_packet: int = MAX_PACKET,
        resend_limit: int = RESEND_LIMIT,
    ) -> None:
        self.role = role
        self.junk = b""
        self.junk_bytes = 0
        self._max_packet = max_packet
        self._resend_limit = resend_limit
        self._buffer = bytearray()
        self._at = 0
        self._searched = 0
        self._ended = False
        self._dead = False
        self._owed = bytearray()
        self._sent: deque[tuple[Command, int]] = deque()
        self._waiting: Command | None = None
        self._last_payload: bytes | None = None
        self._last_frame = b""
        self._nacks = 0
        self._resends = 0
        self._event: Event | None = None

    @property
    def in_flight(self) -> tuple[Command, ...]:
        """Commands that have no answer yet, oldest first."""
        waiting = () if self._waiting is None else (self._waiting,)
        return waiting + tuple(command for command, _ in self._sent)

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer; ``b""`` says that it closed the connection."""
        if not data:
            self._ended = True
        elif self._ended:
            raise LocalProtocolError("data after the end")
        else:
            self._buffer += data

    def send(self, message: Message) -> bytes:
        """The bytes to write for `message`, after the acknowledgements that are owed."""
        if self._dead:
            raise LocalProtocolError("the conversation is over")
        client = self.role is Role.CLIENT
        if isinstance(message, (Command, Interrupt)) != client:
            raise LocalProtocolError(f"a {self.role.value} does not send {type(message).__name__}")
        if isinstance(message, Interrupt):
            return self.data_to_send() + INTERRUPT
        if isinstance(message, Notification):
            return self.data_to_send() + frame(message.payload, b"%")
        framed = frame(message.payload)
        if isinstance(message, Command):
            self._sent.append((message, 0))
        else:
            self._last_frame = framed
            self._resends = 0
        return self.data_to_send() + framed

    def data_to_send(self) -> bytes:
        """Acknowledgements owed and packets that the peer asked for again; clears them."""
        owed = bytes(self._owed)
        self._owed.clear()
        return owed

    def next_event(self) -> Event | None:
        """The next event, None when more bytes are needed. Raises `RemoteProtocolError`."""
        if self._dead:
            return None
        try:
            return self._parse()
        except RemoteProtocolError:
            self._dead = True
            raise

    def next_memory(self) -> tuple[Command, bytes] | None:
        """The next command and the bytes of its answer, where that is plain hex digits behind
        its ``+``; None for whatever else comes next, which `next_event` then tells.

        A short cut for bulk reads: the same steps, without an event each.
        """
        buffer, at = self._buffer, self._at
        if buffer[at : at + 2] != b"+$" or self._waiting is not None or not self._sent:
            return None
        end = buffer.find(b"#", at + 2)
        if end < 0 or len(buffer) < end + 3 or self._sent[0][0].awaits_stop:
            return None
        body = bytes(buffer[at + 2 : end])
        try:
            data = unhexlify(body)
        except HexError:
            return None
        if buffer[end + 1 : end + 3] != b"%02x" % checksum(body):
            return None
        self._at = end + 3
        self._owed += b"+"
        self._last_payload = body
        return self._sent.popleft()[0], data

    def _parse(self) -> Event | None:
        buffer = self._buffer
        while self._at < len(buffer):
            mark = buffer[self._at]
            event: Event | None
            if mark == 0x24 or mark == 0x25:
                body = self._take_body()
                if body is None:
                    break
                event = self._packet(mark, *body)
            elif mark in b"+-\x03":
                self._at += 1
                event = self._single(mark)
            else:
                self._skip_junk()
                continue
            if event is not None:
                return event
        # What is used up goes all at once: moving the rest for each packet would cost more.
        del buffer[: self._at]
        self._at = 0
        if not self._ended:
            return None
        self._dead = True
        return Closed(bytes(buffer[:64]))

    def _skip_junk(self) -> None:
        found = _MARKS.search(self._buffer, self._at)
        end = found.start() if found else len(self._buffer)
        self.junk = (self.junk + self._buffer[self._at : min(end, self._at + 64)])[:64]
        self.junk_bytes += end - self._at
        self._at = end

    def _take_body(self) -> tuple[bytes, bool] | None:
        """Body of the frame at the front and whether it arrived whole; None when cut off."""
        buffer, start = self._buffer, self._at + 1
        end = buffer.find(b"#", max(start, start + self._searched))
        if end < 0 or len(buffer) < end + 3:
            arrived = (end if end >= 0 else len(buffer)) - start
            if arrived > self._max_packet:
                raise RemoteProtocolError(
                    f"a packet does not end within {self._max_packet} bytes",
                    bytes(buffer[start - 1 : start + 63]),
                )
            self._searched = arrived
            return None
        self._searched = 0
        body = bytes(buffer[start:end])
        if (inner := body.rfind(b"$")) >= 0:
            # "$" is escaped inside a packet, so a bare one starts a new packet: the end of the
            # one before it was lost (gdb's remote.c reads it so too).
            self._at = start + inner
            return self._take_body()
        self._at = end + 3
        return body, buffer[end + 1 : end + 3].lower() == b"%02x" % checksum(body)

    def _single(self, mark: int) -> Event | None:
        if mark == 0x03:
            return Interrupt() if self.role is Role.STUB else None
        if mark == 0x2B:
            if self.role is Role.STUB:
                self._last_frame = b""
                return None
            return self._acknowledged()
        return self._send_again()

    def _acknowledged(self) -> Event | None:
        if not self._sent:
            return None
        lost = self._waiting
        self._waiting = self._sent.popleft()[0]
        return None if lost is None else Lost(lost)

    def _send_again(self) -> Event | None:
        if self.role is Role.STUB:
            if not self._last_frame:
                return None
            self._resends += 1
            if self._resends > self._resend_limit:
                raise RemoteProtocolError("the client refuses a packet again and again")
            self._owed += self._last_frame
            return Resent(None)
        if not self._sent:
            return None
        command, tries = self._sent.popleft()
        if tries >= self._resend_limit:
            raise RemoteProtocolError(
                f"the stub refused {command.payload[:40]!r} {tries + 1} times as damaged"
            )
        self._sent.append((command, tries + 1))
        self._owed += frame(command.payload)
        return Resent(command)

    def _packet(self, mark: int, body: bytes, whole: bool) -> Event | None:
        if mark == 0x25:
            return Notification(unescape(body, self._max_packet)) if whole else None
        if not whole:
            return self._damaged(body)
        self._nacks = 0
        self._owed += b"+"
        if self.role is Role.STUB:
            self._last_frame = b""
            return Packet(unescape(body, self._max_packet))
        payload = unescape(body, self._max_packet)
        if payload[:1] == b"O" and _CONSOLE.fullmatch(payload):
            return Console(bytes.fromhex(payload[1:].decode("ascii")))
        return self._answer(payload)

    def _damaged(self, body: bytes) -> Event:
        if self.role is Role.CLIENT and len(self.in_flight) > 1:
            if self._waiting is None:
                self._waiting = self._sent.popleft()[0]
            lost, self._waiting = self._waiting, None
            return Lost(lost)
        self._nacks += 1
        if self._nacks > self._resend_limit:
            raise RemoteProtocolError(f"a packet came damaged {self._nacks} times", body)
        self._owed += b"-"
        return Damaged(body[:64])

    def _answer(self, payload: bytes) -> Event:
        stop = payload[:1] in _STOPS and _STOP.match(payload) is not None
        if stop and (self._waiting is None or not self._waiting.awaits_stop):
            if self._waiting is None and self._sent and self._sent[0][0].awaits_stop:
                self._waiting = self._sent.popleft()[0]
            else:
                return Stopped(payload, None)
        if self._waiting is None and payload == self._last_payload:
            return Repeated(payload)
        if self._waiting is None and self._sent:
            self._waiting = self._sent.popleft()[0]
        command, self._waiting = self._waiting, None
        self._last_payload = payload
        return Stopped(payload, command) if stop else Reply(payload, command)
