"""What QEMU's gdbstub tells of a guest that is stopped: features, registers, memory.

Blocking, in the caller's thread: a hop between threads would cost more than a packet (40 µs).
What the stub can do is asked, not assumed: packet size by ``qSupported``, registers by
``target.xml``, extensions by ``qqemu.*`` (QEMU docs/system/gdb.rst).
"""

from __future__ import annotations

import re
from binascii import Error as HexError
from binascii import hexlify, unhexlify
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple, Self

from breenix_gdbagent.arch.cpu import Arch
from breenix_gdbagent.architectures import of_stub
from breenix_gdbagent.errors import (
    ConnectError,
    LinkError,
    LinkProtocolError,
    LinkTimeout,
    StubError,
)
from breenix_gdbagent.link.address import Address, connect, stays_taken
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.rsplink import RspLink
from breenix_gdbagent.link.stopreply import THREAD, StopReply
from breenix_gdbagent.link.stubstate import RunState, Stateful
from breenix_gdbagent.link.targetxml import MAX_DOCUMENT, Register, TargetDescription, describe

FLIGHT = 32
"""Requests in one write, two flights in the air: 70 packets of 30 bytes fit every socket's
buffer, so that we never block writing while the stub blocks writing its answers."""

ANSWER_SECONDS = 5.0
FIRST_ANSWER_SECONDS = 2.0
LEAVING_SECONDS = 0.3

_PHYSICAL = {True: b"Qqemu.PhyMemMode:1", False: b"Qqemu.PhyMemMode:0"}


class Thread(NamedTuple):
    """One vCPU as the stub has it. `halted` is None when the stub does not say."""

    id: str
    registers: Mapping[str, int]
    halted: bool | None

    @property
    def cpu(self) -> int:
        """QEMU's CPU index: thread ids count from 1 (QEMU gdbstub/system.c, gdb_get_cpu_index)."""
        return max(int(self.id.rpartition(".")[2], 16), 1) - 1


class StubReader(Stateful):
    """A connection to one stub, as far as it reads; `gdbstub.GdbStub` adds control."""

    def __init__(self, link: RspLink, *, seconds: float = ANSWER_SECONDS) -> None:
        super().__init__(link.name)
        self.link = link
        self.seconds = seconds
        self.last_stop: StopReply | None = None
        self.packet_size = 400
        self.features: dict[str, str] = {}
        self.extensions: frozenset[str] = frozenset()
        self.description = TargetDescription("", ())
        self.actions: frozenset[str] = frozenset()
        self._physical: bool | None = None

    @classmethod
    def connect(
        cls,
        address: Address | str,
        *,
        seconds: float = ANSWER_SECONDS,
        first_answer: float = FIRST_ANSWER_SECONDS,
    ) -> Self:
        """Connect, which stops the guest, and learn what the stub can do.

        Raises `ConnectError`: nobody listens, what listens is no gdbstub, or it is silent for
        `first_answer` seconds (another client has it, or QEMU is stopped).
        """
        where = Address.parse(address) if isinstance(address, str) else address
        if stays_taken(where, Deadline(LEAVING_SECONDS)):
            raise _busy(where, "another client is connected to it")
        sock = connect(where, "gdbstub", Deadline(seconds))
        stub = cls(RspLink(sock, f"the gdbstub at {where}"), seconds=seconds)
        try:
            stub.handshake(first_answer)
        except BaseException as error:
            stub.link.close()
            if junk := stub.link.junk:
                raise ConnectError(
                    f"what listens at {where} is no gdbstub", f"it says {junk!r}"
                ) from error
            if isinstance(error, LinkTimeout) and not stub.features:
                raise _busy(where, f"no answer within {first_answer:g} s") from error
            raise
        return stub

    def handshake(self, seconds: float) -> None:
        """Learn what the stub can do; the first answer may take `seconds`. Raises `LinkError`."""
        answer = self.link.ask([b"qSupported:xmlRegisters=i386;vContSupported+"], seconds)
        for feature in answer[0].decode("latin-1").split(";"):
            name, _, value = feature.partition("=")
            self.features[name] = value
        self._take_unasked()
        size = self.features.get("PacketSize", "")
        if re.fullmatch(r"[0-9a-fA-F]{2,8}", size):
            self.packet_size = max(64, int(size, 16))
        extensions, physical, actions = self.ask(b"qqemu.Supported", b"qqemu.PhyMemMode", b"vCont?")
        self.extensions = frozenset(extensions.decode("latin-1").split(";")) - {""}
        self._physical = {b"0": False, b"1": True}.get(physical)
        self.actions = frozenset(actions.decode("latin-1").split(";")[1:])
        if "qXfer:features:read+" in self.features:
            self.description = describe(self._document)

    def _document(self, annex: str) -> bytes:
        """A document of the target description, read in pieces."""
        out = b""
        piece = self.packet_size - 16
        while True:
            request = f"qXfer:features:read:{annex}:{len(out):x},{piece:x}".encode()
            answer = self._ok(request, self.ask(request)[0])
            # A piece of nothing that is not the last would be asked for without end.
            if answer[:1] not in (b"l", b"m") or answer == b"m" or len(out) > MAX_DOCUMENT:
                raise LinkProtocolError(f"{self.link.name} does not give its {annex}")
            out += answer[1:]
            if answer[:1] == b"l":
                return out

    # Asking --------------------------------------------------------------------------------

    def ask(self, *requests: bytes) -> list[bytes]:
        """Answers to requests that are sent together; the guest must be stopped."""
        self._need_still()
        return self.link.ask(requests, self.seconds)

    def _need_still(self) -> None:
        """A connection that is closed says so itself, when it is written to."""
        if self._state is RunState.RUNNING:
            self.need(RunState.STOPPED, RunState.SHUTDOWN)

    def _ok(self, request: bytes, answer: bytes) -> bytes:
        """`answer`, unless it is an error number or empty (not supported)."""
        name = request[:40].decode("latin-1")
        if re.fullmatch(rb"E[0-9a-fA-F]{2}", answer):
            raise StubError(name, int(answer[1:], 16))
        if not answer:
            raise LinkError(f"the gdbstub does not know {name}")
        return answer

    def _take_unasked(self) -> None:
        for payload in self.link.take_stops():
            self._stopped(payload)

    def _stopped(self, payload: bytes) -> StopReply:
        stop = StopReply.parse(payload)
        self.last_stop = stop
        self._set_state(RunState.SHUTDOWN if stop.over else RunState.STOPPED)
        return stop

    # Registers -----------------------------------------------------------------------------

    def threads(self) -> list[Thread]:
        """All vCPUs with their registers, in two round trips. Raises `LinkError`."""
        ids = self._thread_ids()
        wanted = self.register_requests
        requests: list[bytes] = []
        for thread in ids:
            requests += [b"Hg" + thread, b"qThreadExtraInfo," + thread, *wanted]
        answers = self.ask(*requests)
        out = []
        step = 2 + len(wanted)
        for i, thread in enumerate(ids):
            mine = answers[step * i : step * (i + 1)]
            registers = self.decode_registers(mine[2:])
            info = _text(mine[1])
            halted = None if "[" not in info else "[halted" in info
            out.append(Thread(thread.decode(), registers, halted))
        return out

    @cached_property
    def arch(self) -> Arch:
        """The architecture that the target description names."""
        return of_stub(self.description.architecture)

    @cached_property
    def system_registers(self) -> tuple[tuple[str, Register], ...]:
        """(our name, register) of those that ``g`` does not give and that are wanted at a stop."""
        told = {register.name: register for register in self.description.registers}
        wanted = self.arch.system_registers
        return tuple((ours, told[name]) for ours, name in wanted.items() if name in told)

    def _decode_system(self, answers: Sequence[bytes]) -> dict[str, int]:
        """The values in answers to ``p``; a register that is refused is not known."""
        found = {}
        for (name, register), answer in zip(self.system_registers, answers, strict=True):
            if len(answer) == 2 * register.size and b"x" not in answer:
                found[name] = int.from_bytes(_bytes(b"p", answer), "little")
        return found

    def _thread_ids(self) -> list[bytes]:
        ids: list[bytes] = []
        request = b"qfThreadInfo"
        while True:
            answer = self.ask(request)[0]
            if answer[:1] != b"m":
                return ids or [b"01"]
            ids += answer[1:].split(b",")
            if any(re.fullmatch(THREAD.encode(), thread) is None for thread in ids):
                raise LinkProtocolError(f"{answer[:60]!r} is no list of threads")
            request = b"qsThreadInfo"
            if len(ids) > 4096:
                raise LinkProtocolError(f"{self.link.name} lists threads without end")

    def registers(self) -> dict[str, int]:
        """Registers of the selected thread by gdb's name, integers of up to 64 bits."""
        return self.decode_registers(self.ask(*self.register_requests))

    @cached_property
    def register_requests(self) -> tuple[bytes, ...]:
        """What is asked for the registers of the selected thread: ``g``, and the others singly."""
        return b"g", *(b"p%x" % register.number for _, register in self.system_registers)

    def decode_registers(self, answers: Sequence[bytes]) -> dict[str, int]:
        """The registers in the answers to `register_requests`. Raises `StubError`,
        `LinkProtocolError`."""
        return self._decode_all(answers[0]) | self._decode_system(answers[1:])

    def _decode_all(self, answer: bytes) -> dict[str, int]:
        self._ok(b"g", answer)
        known = b""
        if b"x" in answer:
            known = bytes(answer[i : i + 1] != b"x" for i in range(0, len(answer), 2))
            answer = answer.replace(b"x", b"0")
        data = _bytes(b"g", answer)
        if len(data) > self.description.size:
            raise LinkProtocolError(
                f"the gdbstub sends {len(data)} bytes of registers, its description has "
                f"{self.description.size}"
            )
        return self.description.decode(data, known)

    def write_register(self, name: str, value: int) -> None:
        """Set a register of the selected thread (``P``): it changes the guest."""
        number, size = self._register(name)
        request = b"P%x=%b" % (number, hexlify(value.to_bytes(size, "little")))
        self._ok(request, self.ask(request)[0])

    def _register(self, name: str) -> tuple[int, int]:
        told = self.arch.system_registers.get(name, name)
        for register in self.description.registers:
            if register.name == told:
                return register.number, register.size
        raise LinkError(f"the gdbstub has no register {name!r}")

    # Memory --------------------------------------------------------------------------------

    def read(self, va: int, length: int) -> bytes:
        """Virtual memory as the selected thread sees it now.

        Split at pages: the stub refuses a whole read that touches one unmapped page. Raises
        `StubError` then.
        """
        pieces = []
        while length > 0:
            step = min(length, 0x1000 - (va & 0xFFF))
            pieces.append((va, step))
            va += step
            length -= step
        return b"".join(self._read_pieces(pieces, bracket=False))

    def write(self, va: int, data: bytes) -> None:
        """Write virtual memory as the selected thread sees it (``M``). Raises `StubError`."""
        request = b"M%x,%x:%b" % (va, len(data), hexlify(data))
        self._ok(request, self.ask(request)[0])

    def decode_memory(self, answer: bytes) -> bytes | None:
        """The bytes in an answer to ``m``; None when the stub refused it (not mapped)."""
        return None if answer[:1] in (b"E", b"") else _bytes(b"m", answer)

    def read_physical(self, pieces: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes of each (physical address, length).

        No read of physical memory is ever refused (a hole reads as 0 or 0xff, MMIO acts on its
        device): ask only for what the RAM map holds. Each flight of packets turns physical mode
        on and off itself, so that being killed between two leaves it off.
        """
        return self._read_pieces(pieces, bracket=not self._physical_mode())

    @property
    def reads_physical(self) -> bool:
        """Whether it offers physical mode (QEMU 4.1 and later)."""
        return self._physical is not None

    def _physical_mode(self) -> bool:
        if self._physical is None:
            raise LinkError(
                "this gdbstub cannot read physical memory",
                "it does not offer PhyMemMode",
                "use QEMU 4.1 or newer, or give --ram or --qmp",
            )
        return self._physical

    def _read_pieces(self, pieces: Sequence[tuple[int, int]], bracket: bool) -> list[bytes]:
        most = self.packet_size // 2
        requests = []
        for address, length in pieces:
            for at in range(0, length, most):
                requests.append((address + at, min(most, length - at)))
        flights = [requests[i : i + FLIGHT] for i in range(0, len(requests), FLIGHT)]
        on, off = ([_PHYSICAL[True]], [_PHYSICAL[False]]) if bracket else ([], [])
        packets = [[*on, *(b"m%x,%x" % r for r in flight), *off] for flight in flights]
        parts: list[bytes] = []
        self._need_still()
        stream = self.link.stream(packets, self.seconds)
        for flight, (answers, found) in zip(flights, stream, strict=True):
            if bracket:
                self._ok(_PHYSICAL[True], answers[0])
                answers, found = answers[1:-1], found[1:-1]
            for request, answer, data in zip(flight, answers, found, strict=True):
                if data is None or len(data) != request[1]:
                    data = self._odd_memory(b"m%x,%x" % request, request[1], answer, data)
                parts.append(data)
        return _regroup(parts, [length for _, length in pieces])

    def _odd_memory(self, packet: bytes, length: int, answer: bytes, data: bytes | None) -> bytes:
        """Memory out of an answer that is short or no plain hex, or the error that it tells."""
        if data is None:
            data = _bytes(packet, self._ok(packet, answer))
        if len(data) != length:
            raise LinkProtocolError(f"the gdbstub sent {len(data)} bytes for {packet.decode()}")
        return data

    @contextmanager
    def physical(self) -> Iterator[None]:
        """Physical mode for many reads; what it was before is put back, whatever happens."""
        before = self._physical_mode()
        if not before:
            self._ok(_PHYSICAL[True], self.ask(_PHYSICAL[True])[0])
            self._physical = True
        try:
            yield
        finally:
            if not before and not self.link.closed:
                # Not waited for: after a timeout it is obeyed when the stub wakes up, and
                # requests behind it wait for it anyway.
                self.link.post(_PHYSICAL[False], awaits_stop=False)
                self._physical = False

    # The monitor ---------------------------------------------------------------------------

    def monitor(self, command: str, seconds: float | None = None) -> str:
        """What QEMU's human monitor prints for `command` (``qRcmd``).

        Its text comes in O packets, which we never acknowledge one by one: that is what makes
        gdb and QEMU block each other for ever over a unix socket.
        """
        self.link.console.clear()
        request = b"qRcmd," + hexlify(command.encode())
        answer = self.link.ask([request], self.seconds if seconds is None else seconds)[0]
        if answer != b"OK":
            self._ok(b"monitor " + command.encode(), answer)
        return (
            bytes(self.link.console) + (b"" if answer == b"OK" else _bytes(request, answer))
        ).decode("utf-8", "replace")


def _busy(where: Address, why: str) -> ConnectError:
    return ConnectError(
        f"the gdbstub at {where} is silent: it serves one client at a time",
        why,
        "end the other gdb session (or continue QEMU if it is stopped), then try again",
    )


def _bytes(request: bytes, answer: bytes) -> bytes:
    """The bytes that hex digits stand for; `LinkProtocolError` when they are none."""
    try:
        return unhexlify(answer)
    except HexError as error:
        raise LinkProtocolError(
            f"the gdbstub answered {request[:40].decode('latin-1')} with no hex digits",
            f"it sent {answer[:40]!r}",
        ) from error


def _text(answer: bytes) -> str:
    try:
        return unhexlify(answer).decode("latin-1")
    except HexError:
        return ""


def _regroup(parts: Sequence[bytes], lengths: Sequence[int]) -> list[bytes]:
    """`parts`, joined to pieces of the given lengths."""
    out = []
    at = 0
    for length in lengths:
        taken: list[bytes] = []
        while length > 0:
            taken.append(parts[at])
            length -= len(parts[at])
            at += 1
        out.append(taken[0] if len(taken) == 1 else b"".join(taken))
    return out
