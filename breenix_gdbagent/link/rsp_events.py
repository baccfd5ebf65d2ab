"""What the RSP codec says and takes: events, messages and its two errors, as values.

Two are equal when they are of one kind and hold the same: a reply never equals a stop.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


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


class _Value:
    """Its fields are its `__slots__`; compared and shown by kind and fields."""

    __slots__: ClassVar[tuple[str, ...]] = ()

    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._fields() == self._fields()

    def __hash__(self) -> int:
        return hash((type(self), self._fields()))

    def __repr__(self) -> str:
        named = (f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({', '.join(named)})"


class Packet(_Value):
    """A packet that a stub sends, or one that it received from its client."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class Interrupt(_Value):
    """The client wants the target stopped (the byte 0x03)."""

    __slots__ = ()


class Reply(_Value):
    """The answer to `command`; None when nothing was asked."""

    __slots__ = ("command", "payload")

    def __init__(self, payload: bytes, command: Command | None) -> None:
        self.payload = payload
        self.command = command


class Stopped(_Value):
    """A stop reply (S, T, W or X); `command` is None when it came unasked."""

    __slots__ = ("command", "payload")

    def __init__(self, payload: bytes, command: Command | None) -> None:
        self.payload = payload
        self.command = command


class Console(_Value):
    """Text that the stub prints, decoded from an O packet."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text


class Notification(_Value):
    """A notification; also what a stub sends as one."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class Resent(_Value):
    """The peer asked for this again; it is in `data_to_send()`."""

    __slots__ = ("command",)

    def __init__(self, command: Command | None) -> None:
        self.command = command


class Damaged(_Value):
    """A packet failed its checksum; it will be asked for again."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Lost(_Value):
    """The reply to this command cannot come any more: ask again if asking twice does no harm."""

    __slots__ = ("command",)

    def __init__(self, command: Command) -> None:
        self.command = command


class Repeated(_Value):
    """The last packet came once more, because our acknowledgement did not arrive."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class Closed(_Value):
    """The peer closed the connection; `unfinished` is what it had sent of a packet."""

    __slots__ = ("unfinished",)

    def __init__(self, unfinished: bytes) -> None:
        self.unfinished = unfinished


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
