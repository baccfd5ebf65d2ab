"""What the RSP codec says and takes: events, messages and its two errors, as values.

Named tuples here and in the rooms around: a frozen dataclass costs half a millisecond at import,
twenty times as much, and the first answer of `pt walk --gdb` waits for all of them.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class RspError(Exception):
    """Base of the two errors of the codec."""


class LocalProtocolError(RspError):
    """We asked the codec for what the protocol does not allow."""


class RemoteProtocolError(RspError):
    """The peer sent what the protocol does not allow; `data` is the start of it."""

    def __init__(self, message: str, data: bytes = b"") -> None:
        super().__init__(message)
        self.data = data[:64]


class Role(Enum):
    """Which side we speak for."""

    CLIENT = "client"
    STUB = "stub"


class Command:
    """A request of the client. `awaits_stop`: its answer is a stop reply, whenever that comes.

    Compared by identity: two equal requests in flight are two commands.
    """

    __slots__ = ("awaits_stop", "payload")

    def __init__(self, payload: bytes, awaits_stop: bool = False) -> None:
        self.payload = payload
        self.awaits_stop = awaits_stop

    def __repr__(self) -> str:
        return f"Command({self.payload!r}, awaits_stop={self.awaits_stop})"


class Packet(NamedTuple):
    """A packet that a stub sends, or one that it received from its client."""

    payload: bytes


class Interrupt(NamedTuple):
    """The client wants the target stopped (the byte 0x03)."""


class Reply(NamedTuple):
    """The answer to `command`; None when nothing was asked."""

    payload: bytes
    command: Command | None


class Stopped(NamedTuple):
    """A stop reply (S, T, W or X); `command` is None when it came unasked."""

    payload: bytes
    command: Command | None


class Console(NamedTuple):
    """Text that the stub prints, decoded from an O packet."""

    text: bytes


class Notification(NamedTuple):
    """A notification; also what a stub sends as one."""

    payload: bytes


class Resent(NamedTuple):
    """The peer asked for this again; it is in `data_to_send()`."""

    command: Command | None


class Damaged(NamedTuple):
    """A packet failed its checksum; it will be asked for again."""

    data: bytes


class Lost(NamedTuple):
    """The reply to this command cannot come any more: ask again if asking twice does no harm."""

    command: Command


class Repeated(NamedTuple):
    """The last packet came once more, because our acknowledgement did not arrive."""

    payload: bytes


class Closed(NamedTuple):
    """The peer closed the connection; `unfinished` is what it had sent of a packet."""

    unfinished: bytes


Event = (
    Reply
    | Stopped
    | Console
    | Notification
    | Resent
    | Damaged
    | Lost
    | Repeated
    | Packet
    | Interrupt
    | Closed
)
Message = Command | Packet | Notification | Interrupt
