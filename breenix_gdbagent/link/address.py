"""Where a stub, a monitor or a serial line listens, as users write it, and how to get there."""

from __future__ import annotations

import select
import socket
from pathlib import Path
from typing import NamedTuple

from breenix_gdbagent.errors import ConnectError, InputError
from breenix_gdbagent.link.deadline import Deadline

LOOK_AGAIN = 0.01


class Address(NamedTuple):
    """A unix socket's path, or a TCP host and port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path is not None else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """``unix:PATH``, ``HOST:PORT``, ``tcp:HOST:PORT`` or ``:PORT`` (this host).

        A text with a slash and no such form is a path. Raises `InputError`.
        """
        if text.startswith("unix:"):
            path = text[5:].split(",", 1)[0]
            if path:
                return cls(path=path)
        elif "/" in text:
            return cls(path=text)
        else:
            host, colon, port = text.removeprefix("tcp:").rpartition(":")
            if colon and port.isdecimal() and 0 < int(port) < 65536:
                return cls(host=host.strip("[]") or "127.0.0.1", port=int(port))
        raise InputError(f"{text!r} is no address of a socket", fix="write unix:PATH or HOST:PORT")


def connect(address: Address, what: str, deadline: Deadline) -> socket.socket:
    """A connected stream socket; `what` names the peer in the error.

    Raises `ConnectError` when nobody listens there, or not within the deadline.
    """
    try:
        if address.path is None:
            sock = socket.create_connection((address.host, address.port), deadline.left())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(deadline.left())
            sock.connect(address.path)
        except OSError:
            sock.close()
            raise
        return sock
    except OSError as error:
        raise ConnectError(
            f"no {what} at {address}", str(error), "is QEMU running, and is that its address?"
        ) from error


def stays_taken(address: Address, deadline: Deadline) -> bool:
    """Whether `taken` says so until the deadline: a client that has just left is in the tables
    until its server notices. Nothing tells of a change in them, so they are read again."""
    while taken(address):
        if deadline.passed:
            return True
        select.select([], [], [], LOOK_AGAIN)
    return False


def taken(address: Address) -> bool:
    """Whether the kernel's socket tables show a client that is connected there already.

    Linux only (False elsewhere, and where the peer is on another host): QEMU takes one client;
    a second connect succeeds, is silent, and stops the guest when the first one leaves, so it
    is better not made. State 03 in /proc/net/unix is SS_CONNECTED, 01 in /proc/net/tcp
    ESTABLISHED (Linux net/unix/af_unix.c, net/ipv4/tcp_ipv4.c).
    """
    try:
        if address.path is not None:
            path = str(Path(address.path).absolute())
            rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
            return any(
                row[5] == "03" and row[7] in (path, address.path) for row in rows if len(row) > 7
            )
        if address.host not in ("127.0.0.1", "localhost", "::1"):
            return False
        rows = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in Path("/proc/net", table).read_text().splitlines()[1:]
        ]
    except OSError:
        return False
    return any(
        int(row[1].rpartition(":")[2], 16) == address.port and row[3] == "01" for row in rows
    )
