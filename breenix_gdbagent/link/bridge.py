"""The other side of the remote protocol: a socket at which one gdb is served.

Sans meaning: packets go to a `Handler`, what it answers goes back. A client that sends no packets,
or does not read what it is sent, is dropped; the next one may come.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from breenix_gdbagent.errors import OutputError
from breenix_gdbagent.link import rsp

SEND_SECONDS = 5.0
MOST_JUNK = 1 << 16
_RECEIVE = 1 << 16


class Handler(Protocol):
    """What answers. Called in the server's thread, one packet at a time."""

    def answer(self, payload: bytes) -> bytes | None:
        """The reply to a packet; None: it comes later, by `RspServer.reply`."""

    def interrupt(self) -> None:
        """The client wants the guest stopped."""

    def joined(self) -> None:
        """A client has connected."""

    def left(self, why: str) -> None:
        """The client is gone: it closed the connection, or was dropped."""


class RspServer:
    """Listens on a unix socket that only its owner may use, and serves one client at a time."""

    def __init__(self, path: Path, handler: Handler) -> None:
        """Raises `OutputError` when the socket cannot be made there."""
        self.path = path
        self._handler = handler
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                self._listener.bind(str(path))
            finally:
                os.umask(before)
            self._listener.listen(1)
        except OSError as error:
            self._listener.close()
            raise OutputError(f"cannot listen at {path}: {error.strerror or error}") from error
        self._replies: SimpleQueue[bytes] = SimpleQueue()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._client: socket.socket | None = None
        self._codec = rsp.Connection(rsp.Role.STUB)
        self._open = True
        self._thread = threading.Thread(target=self._serve, name="bridge", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        return self._client is not None

    def reply(self, payload: bytes) -> None:
        """The reply that the handler owed, from any thread. Nothing happens when nobody waits."""
        self._replies.put(payload)
        self._ring()

    def console(self, text: bytes) -> None:
        """Text for the client's screen, from the handler while it answers."""
        for at in range(0, len(text), 1024):
            self._write(self._codec.send(rsp.Packet(b"O" + text[at : at + 1024].hex().encode())))

    def close(self) -> None:
        """Drop the client, remove the socket, end the thread."""
        self._open = False
        self._ring()
        self._thread.join(SEND_SECONDS)
        self._listener.close()
        self._wake.close()
        self._waker.close()
        with suppress(OSError):
            self.path.unlink()

    def _ring(self) -> None:
        with suppress(OSError):
            self._waker.send(b"!")

    # The thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        while self._open:
            sockets: list[socket.socket] = [self._wake]
            # A second client waits in the queue until this one leaves.
            sockets.append(self._listener if self._client is None else self._client)
            ready, _, _ = select.select(sockets, [], [])
            if self._wake in ready:
                with suppress(OSError):
                    self._wake.recv(4096)
                self._send_replies()
            if self._client is None and self._listener in ready:
                self._accept()
            elif self._client is not None and self._client in ready:
                self._receive(self._client)
        self._drop("the shell ends")

    def _accept(self) -> None:
        with suppress(OSError):
            self._client, _ = self._listener.accept()
            self._client.settimeout(SEND_SECONDS)
            self._codec = rsp.Connection(rsp.Role.STUB)
            with suppress(Empty):
                while True:
                    self._replies.get_nowait()
            self._handler.joined()

    def _receive(self, client: socket.socket) -> None:
        try:
            data = client.recv(_RECEIVE)
            self._codec.receive_data(data)
            while (event := self._codec.next_event()) is not None:
                if self._client is None:
                    return
                self._handle(event)
        except TimeoutError:
            self._drop("it does not read what it is sent")
        except rsp.RemoteProtocolError as error:
            self._drop(f"it broke the protocol: {error}")
        except OSError as error:
            self._drop(error.strerror or "the connection broke")
        if self._codec.junk_bytes > MOST_JUNK:
            self._drop("it sends what is no packet")

    def _handle(self, event: rsp.Event) -> None:
        if isinstance(event, rsp.Closed):
            self._drop("")
        elif isinstance(event, rsp.Interrupt):
            self._handler.interrupt()
        elif isinstance(event, rsp.Packet):
            # Acknowledged before it is answered: an answer may take as long as the guest runs.
            self._write(self._codec.data_to_send())
            answer = self._handler.answer(event.payload)
            if answer is not None:
                self._write(self._codec.send(rsp.Packet(answer)))
        else:
            self._write(self._codec.data_to_send())

    def _send_replies(self) -> None:
        try:
            while self._client is not None:
                self._write(self._codec.send(rsp.Packet(self._replies.get_nowait())))
        except Empty:
            return
        except OSError as error:
            self._drop(error.strerror or "it does not read what it is sent")

    def _write(self, data: bytes) -> None:
        if data and self._client is not None:
            self._client.sendall(data)

    def _drop(self, why: str) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
            self._handler.left(why)
