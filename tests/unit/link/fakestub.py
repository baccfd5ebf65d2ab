"""A gdbstub in a thread, at the other end of a socket pair, that can be made to misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from breenix_gdbagent.link import rsp
from breenix_gdbagent.link.gdbstub import GdbStub
from breenix_gdbagent.link.rsplink import RspLink

CORE = b"""<?xml version="1.0"?>
<!-- <reg name="ss_base" bitsize="64"/> -->
<feature name="core">
<reg name="rax" bitsize="64"/><reg name="rip" bitsize="64" type="code_ptr"/>
<reg name="cs" bitsize="32"/><reg name="st0" bitsize="80"/><reg name="cr3" bitsize="64"/>
</feature>"""
TARGET = b"""<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd">
<target><architecture>i386:x86-64</architecture><xi:include href="core.xml"/></target>"""
REGISTERS = (
    (0x1122334455667788).to_bytes(8, "little")
    + (0x8000001000).to_bytes(8, "little")
    + (8).to_bytes(4, "little")
    + bytes(range(10))
    + (0x144000).to_bytes(8, "little")
)

Answer = bytes | None
"""A payload, or None for silence."""


def byte_at(address: int) -> int:
    """What memory holds: every byte tells where it is from."""
    return (address * 7 + (address >> 12) + 1) & 0xFF


class FakeStub:
    """`override(payload)` answers first: a payload, None (silence) or `NotImplemented` (the well
    behaved answer); `mangle` changes the bytes written."""

    def __init__(
        self,
        override: Callable[[bytes], object] = lambda payload: NotImplemented,
        mangle: Callable[[bytes], bytes] = lambda data: data,
        packet_size: int = 0x1000,
    ) -> None:
        self.packet_size = packet_size
        self.seen: list[bytes] = []
        self.physical = False
        self.breaks: set[bytes] = set()
        self.running = False
        self.resumed = threading.Event()
        self.interrupts = 0
        self.closed = threading.Event()
        self._override = override
        self._mangle = mangle
        self._codec = rsp.Connection(rsp.Role.STUB)
        self.client, self._sock = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def connect(self, seconds: float = 2.0) -> GdbStub:
        """A client, past its handshake."""
        stub = GdbStub(RspLink(self.client, "the fake stub"), seconds=seconds)
        stub.handshake(seconds)
        return stub

    def close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._sock.close()
        self.client.close()

    def write(self, data: bytes) -> None:
        data = self._mangle(data)
        if data:
            self._sock.sendall(data)

    def stop(self, payload: bytes = b"T05thread:01;") -> None:
        self.running = False
        self.write(self._codec.send(rsp.Packet(payload)))

    def _serve(self) -> None:
        with suppress(OSError):
            while data := self._sock.recv(65536):
                self._codec.receive_data(data)
                while (event := self._codec.next_event()) is not None:
                    self._handle(event)
        self.closed.set()

    def _handle(self, event: rsp.Event) -> None:
        if isinstance(event, rsp.Interrupt):
            self.interrupts += 1
            if self.running:  # else it came too late, and QEMU drops it (gdbstub.c, RS_IDLE)
                self.stop(b"T02thread:01;")
        if isinstance(event, rsp.Resent):
            self.write(self._codec.data_to_send())
        if not isinstance(event, rsp.Packet):
            return
        self.seen.append(event.payload)
        answer = self._override(event.payload)
        if answer is NotImplemented:
            answer = self._good(event.payload)
        self.write(b"+")
        self._codec.data_to_send()
        if isinstance(answer, bytes):
            self.write(self._codec.send(rsp.Packet(answer)))

    def _good(self, payload: bytes) -> Answer:
        name, _, rest = payload.partition(b":")
        if payload.startswith(b"qSupported"):
            return b"PacketSize=%x;qXfer:features:read+" % self.packet_size
        if payload.startswith(b"qXfer:features:read:"):
            annex, _, span = payload[20:].partition(b":")
            offset, length = (int(x, 16) for x in span.split(b","))
            document = {b"target.xml": TARGET, b"core.xml": CORE}[annex]
            piece = document[offset : offset + length]
            return (b"l" if offset + length >= len(document) else b"m") + piece
        fixed = {
            b"qqemu.Supported": b"sstepbits;sstep;PhyMemMode",
            b"qqemu.sstepbits": b"ENABLE=1,NOIRQ=2,NOTIMER=4",
            b"qqemu.PhyMemMode": b"1" if self.physical else b"0",
            b"vCont?": b"vCont;c;C;s;S",
            b"qfThreadInfo": b"m01",
            b"qsThreadInfo": b"l",
            b"g": REGISTERS.hex().encode(),
            b"?": b"T05thread:01;",
        }
        if payload in fixed:
            return fixed[payload]
        if name == b"Qqemu.PhyMemMode":
            self.physical = rest == b"1"
            return b"OK"
        if payload[:1] == b"m":
            address, length = (int(x, 16) for x in payload[1:].split(b","))
            if length * 2 > self.packet_size:
                return b"E22"
            return bytes(byte_at(address + i) for i in range(length)).hex().encode()
        if payload[:1] in (b"Z", b"z"):
            (self.breaks.add if payload[:1] == b"Z" else self.breaks.discard)(payload[1:])
            return b"OK"
        if payload.startswith((b"vCont;s", b"s")):
            return b"T05thread:01;"
        if payload.startswith((b"vCont;c", b"c")):
            self.running = True
            self.resumed.set()
            return None
        if payload.startswith((b"Hg", b"D", b"Qqemu")):
            return b"OK"
        if payload.startswith(b"qThreadExtraInfo"):
            return b"CPU#0 [halted ]".hex().encode()
        return b""
