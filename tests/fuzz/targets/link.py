"""What a gdbstub and a monitor say: RSP, target descriptions, QMP, the human monitor's text."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from breenix_gdbagent.errors import AgentError
from breenix_gdbagent.link.hmptext import (
    parse_clock_port,
    parse_port,
    parse_ram_map,
    parse_registers,
)
from breenix_gdbagent.link.qmp import Qmp
from breenix_gdbagent.link.rsp import Command, Connection, Role
from breenix_gdbagent.link.rsp_events import RemoteProtocolError
from breenix_gdbagent.link.stopreply import StopReply
from breenix_gdbagent.link.targetxml import describe
from tests.fuzz.target import Target
from tests.unit.link.fakestub import FakeStub

TRANSCRIPTS = Path(__file__).parents[3] / "fixtures" / "transcripts"
MOST_PACKET = 4096
SILENCE = 5.0
"""Seconds after which a peer is given up; each of these answers at once, or hangs up."""
DOCUMENTS = b"\0"
"""Between the documents of a target description: first target.xml, then NAME, text, NAME, ..."""


def _transcript(sender: str) -> Iterator[bytes]:
    rows = (TRANSCRIPTS / "gdb-13-qemu-7.2.jsonl").read_text().splitlines()
    for row in map(json.loads, rows):
        if row["from"] == sender:
            yield bytes.fromhex(row["data"])


def conversation(data: bytes) -> None:
    """A peer's bytes, in pieces as the first byte says; its lowest bit says which peer."""
    lead, stream = data[:1] or b"\0", data[1:]
    role = Role.STUB if lead[0] & 1 else Role.CLIENT
    codec = Connection(role, max_packet=MOST_PACKET)
    step = (lead[0] >> 1) + 1
    for at in range(0, len(stream), step):
        if role is Role.CLIENT and at // step % 3 == 0:
            codec.send(Command(b"g", awaits_stop=at // step % 2 == 0))
        codec.receive_data(stream[at : at + step])
        if at // step % 2 and role is Role.CLIENT:
            codec.next_memory()
        while (event := codec.next_event()) is not None:
            assert len(getattr(event, "payload", b"")) <= MOST_PACKET
        codec.data_to_send()
    assert len(codec.junk) <= 64


def conversation_seeds() -> Iterator[bytes]:
    for lead, sender in ((b"\xfe", "stub"), (b"\xff", "gdb"), (b"\x08", "stub")):
        said = b"".join(_transcript(sender))
        yield lead + said[:1500]
        yield lead + said[-1500:]
    yield b"\x40+$OK#9a%Stop:T05thread:01;#00$0* 1#00$}\x03#ff\x03-"


def stop_reply(data: bytes) -> None:
    reply = StopReply.parse(data)
    assert isinstance(reply.cpu, int) and isinstance(reply.over, bool)
    assert isinstance(reply.shutdown, bool)


def stop_reply_seeds() -> Iterator[bytes]:
    yield b"T05thread:01;"
    yield b"T05thread:p1.2;rwatch:ffffc90000001000;"
    yield b"T02swbreak:;core:1;"
    yield b"W00"
    yield b"X09;process:1"
    yield b"S05"


GOOD = b"~"


def stub(data: bytes) -> None:
    """A stub whose first answers are the lines of `data`; `GOOD` ones, and all behind them, are
    those of a stub that behaves."""
    answers = iter(data.split(b"\n"))

    def answer(payload: bytes) -> object:
        line = next(answers, GOOD)
        return NotImplemented if line == GOOD else line

    fake = FakeStub(answer)
    try:
        reader = fake.connect(SILENCE)
        for thread in reader.threads():
            assert thread.cpu >= 0
        assert len(reader.read(0x1000, 16)) == 16
        assert reader.reads_physical in (True, False)
        with reader.physical():
            reader.read_physical([(0x2000, 8)])
    finally:
        fake.close()


def stub_seeds() -> Iterator[bytes]:
    yield b"\n".join([GOOD] * 12)
    described = b"l<target><reg name='rip' bitsize='64'/></target>"
    handshake = [b"PacketSize=1000;qXfer:features:read+", b"PhyMemMode", b"0", b"vCont;c;s"]
    threads = [b"mp1.1,p1.2", b"m3", b"l", b"OK", b"0010000000000000", b"4350555b68616c746564205d"]
    yield b"\n".join([*handshake, described, *threads])
    yield b"\n".join([*handshake, b"m<target>", b"l</target>", b"m1", b"l", b"OK", b"xx" * 8, b""])
    yield b"\n".join([*[GOOD] * 13, b"E22", b"00" * 16])


def target_description(data: bytes) -> None:
    first, *rest = data.split(DOCUMENTS)
    documents = dict(zip(rest[::2], rest[1::2], strict=False))
    told = describe(lambda annex: first if annex == "target.xml" else documents.get(
        annex.encode(), b""))  # fmt: skip
    assert told.size >= 0
    told.decode(bytes(range(256)), b"\1" * 256)


def target_description_seeds() -> Iterator[bytes]:
    core = (
        b'<feature name="org.gnu.gdb.i386.core"><reg name="rax" bitsize="64" type="int64"/>'
        b'<reg name="eflags" bitsize="32" regnum="17"/><!-- <reg name="x"/> --></feature>'
    )
    yield (
        (
            b'<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target><architecture>'
            b'i386:x86-64</architecture><xi:include href="core.xml"/></target>'
        )
        + DOCUMENTS
        + b"core.xml"
        + DOCUMENTS
        + core
    )
    yield b"<target>" + core + b"</target>"


def monitor_text(data: bytes) -> None:
    told = data.decode("latin-1")
    ram = parse_ram_map(told)
    for one, after in zip(ram.ranges, ram.ranges[1:], strict=False):
        assert one.start < one.end <= after.start
    for index in parse_registers(told):
        assert index >= 0
    parse_clock_port(told)
    parse_port(told)


def monitor_text_seeds() -> Iterator[bytes]:
    for path in sorted(TRANSCRIPTS.glob("*.txt")):
        yield path.read_bytes()[:4000]
    yield b"portw[0x0608] = 0x00d82b1c\n"


GREETING = {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""},
                    "capabilities": ["oob"]}}  # fmt: skip
PATIENCE = 0.005


def monitor(data: bytes) -> None:
    """A monitor that says one line of `data` for each that it is asked, and then hangs up. Asked
    nothing for a while it says the next one all the same."""
    ours, theirs = socket.socketpair()
    peer = threading.Thread(target=_say, args=(theirs, data.splitlines(keepends=True)))
    peer.start()
    try:
        qmp = Qmp(ours, seconds=SILENCE)
        try:
            assert qmp.version is None or isinstance(qmp.version, str)
            for ask in (qmp.status, qmp.ram_map, qmp.shutdown_reason):
                with suppress(AgentError):
                    ask()
            assert all(isinstance(event.name, str) for event in qmp.events())
        finally:
            qmp.close()
    finally:
        ours.close()
        peer.join()


def _say(theirs: socket.socket, lines: list[bytes]) -> None:
    theirs.settimeout(PATIENCE)
    with theirs, suppress(ConnectionError):
        for number, line in enumerate(lines):
            if number:
                with suppress(TimeoutError):
                    theirs.recv(4096)
            theirs.sendall(line)


def monitor_seeds() -> Iterator[bytes]:
    lines: list[dict[str, object]] = [
        GREETING,
        {"return": {}, "id": "__qmp#00000"},
        {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"},
         "timestamp": {"seconds": 1, "microseconds": 2}},
        {"return": {"status": "running", "running": True}, "id": "__qmp#00001"},
        {"return": "FlatView #0\r\n AS \"memory\"\r\n", "id": "__qmp#00002"},
        {"return": {"status": "shutdown"}, "id": "__qmp#00003"},
    ]  # fmt: skip
    said = b"".join(json.dumps(line).encode() + b"\r\n" for line in lines)
    yield said
    yield said.replace(b'"running", ', b'"running","x":[{}], ')
    yield json.dumps(GREETING).encode() + b"\r\n"
    refused = {"error": {"class": "GenericError", "desc": "no"}, "id": "__qmp#00001"}
    yield b"".join(json.dumps(line).encode() + b"\r\n" for line in [*lines[:2], refused])


TARGETS = (
    Target("rsp", conversation, conversation_seeds, refusals=(AgentError, RemoteProtocolError)),
    Target("stop-reply", stop_reply, stop_reply_seeds, longest=256),
    Target("stub", stub, stub_seeds, longest=600),
    Target("target-xml", target_description, target_description_seeds),
    Target("hmp", monitor_text, monitor_text_seeds),
    Target("qmp", monitor, monitor_seeds, longest=1500),
)
