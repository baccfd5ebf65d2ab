"""Clients that look at nothing: what QEMU itself takes, which no debugger can be faster than."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

HELD = b"qSupported", b"?", b"g"
MONITOR = "info registers", "info mtree -f"
"""What nobody who tells of a stop can leave out: registers, and where RAM is."""


class BareStub:
    """The gdbstub's protocol without anything behind it."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def ask(self, request: bytes) -> bytes:
        """The answer's packet, acknowledged."""
        self._line.sendall(b"$%b#%02x" % (request, sum(request) & 0xFF))
        answer = b""
        while answer[-3:-2] != b"#":
            answer += self._line.recv(1 << 16)
        self._line.sendall(b"+")
        return answer

    def ask_all(self, requests: Sequence[bytes]) -> None:
        """Reads of memory, all of them at once; their answers are taken, and looked at no
        further than whether there are bytes in them."""
        self._line.sendall(b"".join(b"$%b#%02x" % (r, sum(r) & 0xFF) for r in requests))
        answers = bytearray()
        while answers.count(b"#") < len(requests) or answers[-3:-2] != b"#":
            answers += self._line.recv(1 << 16)
        self._line.sendall(b"+")
        assert b"$E" not in answers


@contextmanager
def bare_stub(gdb: str) -> Iterator[BareStub]:
    """Connected to ``unix:PATH``; the guest stands meanwhile, and goes on afterwards."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(gdb.removeprefix("unix:"))
        stub = BareStub(line)
        yield stub
        stub.ask(b"D")


@contextmanager
def _bare_monitor(qmp: str) -> Iterator[Any]:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(qmp.removeprefix("unix:"))
        with line.makefile("rw", encoding="utf-8") as file:
            file.readline()

            def execute(command: str, **arguments: str) -> None:
                file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
                file.flush()
                while "event" in json.loads(file.readline()):
                    pass

            execute("qmp_capabilities")
            yield execute


def bare_attach(gdb: str, qmp: str) -> None:
    """Takes hold of a guest, asks what must be asked, and lets it go."""
    with bare_stub(gdb) as stub, _bare_monitor(qmp) as execute:
        for request in HELD:
            stub.ask(request)
        for line in MONITOR:
            execute("human-monitor-command", **{"command-line": line})
