"""What the RSP codec says and takes: events, messages and its two errors, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """A request of the client. `awaits_stop`: its answer is a stop reply, whenever that comes.

    Compared by identity: two equal requests in flight are two commands.
    """

    payload: bytes
    awaits_stop: bool = False


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that a stub sends, or one that it received from its client."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The client wants the target stopped (the byte 0x03)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to `command`; None when nothing was asked."""

    payload: bytes
    command: Command | None


@dataclass(frozen=True, slots=True)
class Stopped:
    """A stop reply (S, T, W or X); `command` is None when it came unasked."""

    payload: bytes
    command: Command | None


@dataclass(frozen=True, slots=True)
class Console:
    """Text that the stub prints, decoded from an O packet."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification; also what a stub sends as one."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Resent:
    """The peer asked for this again; it is in `data_to_send()`."""

    command: Command | None


@dataclass(frozen=True, slots=True)
class Damaged:
    """A packet failed its checksum; it will be asked for again."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The reply to this command cannot come any more: ask again if asking twice does no harm."""

    command: Command


@dataclass(frozen=True, slots=True)
class Repeated:
    """The last packet came once more, because our acknowledgement did not arrive."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
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
