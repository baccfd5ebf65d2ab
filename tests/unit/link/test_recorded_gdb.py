"""A session of real gdb with a real QEMU (fixtures/transcripts/record.py) through our codec: every
packet must decode to what gdb itself said of it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from breenix_gdbagent.link import rsp
from breenix_gdbagent.link.stopreply import StopReply
from breenix_gdbagent.link.targetxml import describe

TRANSCRIPTS = Path(__file__).parents[3] / "fixtures" / "transcripts"
SESSIONS = sorted(p.stem for p in TRANSCRIPTS.glob("*.jsonl"))
RUNS = (b"vCont;", b"?", b"c", b"s")


def judged(name: str) -> list[tuple[str, bytes]]:
    """("sent" or "received", payload) as gdb's own debug output has them."""
    out = []
    for line in (TRANSCRIPTS / f"{name}.log").read_text().splitlines():
        line = line.strip().removeprefix("[remote] ")
        if line.startswith("Sending packet: $"):
            out.append(("sent", line[17:].rpartition("#")[0]))
        elif line.startswith("Packet received:"):
            out.append(("received", line[17:]))
    return [(kind, text.encode().decode("unicode_escape").encode("latin-1")) for kind, text in out]


def replayed(name: str, piece: int) -> list[tuple[str, bytes, rsp.Command | None]]:
    """The session through the codec, both sides, `piece` bytes at a time."""
    client, stub = rsp.Connection(), rsp.Connection(rsp.Role.STUB)
    out: list[tuple[str, bytes, rsp.Command | None]] = []
    for row in map(json.loads, (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()):
        data = bytes.fromhex(row["data"])
        side = stub if row["from"] == "gdb" else client
        for at in range(0, len(data), piece):
            side.receive_data(data[at : at + piece])
            while (event := side.next_event()) is not None:
                if isinstance(event, rsp.Packet):
                    runs = event.payload.startswith(RUNS) and event.payload != b"vCont?"
                    client.send(rsp.Command(event.payload, awaits_stop=runs))
                    out.append(("sent", event.payload, None))
                elif isinstance(event, (rsp.Reply, rsp.Stopped)):
                    out.append(("received", event.payload, event.command))
                elif isinstance(event, rsp.Console):
                    out.append(("received", b"O" + event.text.hex().encode(), None))
                else:
                    raise AssertionError(event)
    assert client.junk == stub.junk == b""
    return out


@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_every_packet_is_what_gdb_says_it_is(name: str, piece: int) -> None:
    assert [(kind, payload) for kind, payload, _ in replayed(name, piece)] == judged(name)


@pytest.mark.parametrize("name", SESSIONS)
def test_every_answer_belongs_to_the_question_before_it(name: str) -> None:
    asked = b""
    stops = 0
    for kind, payload, command in replayed(name, 65536):
        if kind == "sent":
            asked = payload
        elif not payload.startswith(b"O5"):
            assert command is not None and command.payload == asked
            stops += command.awaits_stop
            if command.awaits_stop:
                assert StopReply.parse(payload).signal == 5
    assert stops > 3


@pytest.mark.parametrize("name", SESSIONS)
def test_the_register_layout_gives_what_gdb_wrote(name: str) -> None:
    """gdb set rax by its number in the description; the next `g` has it there."""
    rows = replayed(name, 65536)
    documents: dict[str, bytes] = {}
    for (_, asked, _), (_, answer, _) in itertools.pairwise(rows):
        if asked.startswith(b"qXfer:features:read:"):
            annex = asked.split(b":")[3].decode()
            documents[annex] = documents.get(annex, b"") + answer[1:]
    target = describe(documents.__getitem__)
    names = [r.name for r in target.registers]
    assert "ss_base" not in names and len(names) == 66
    written = next(i for i, (_, asked, _) in enumerate(rows) if asked.startswith(b"P0="))
    after = next(
        answer
        for (_, asked, _), (_, answer, _) in zip(rows[written:], rows[written + 1 :], strict=False)
        if asked == b"g"
    )
    registers = target.decode(bytes.fromhex(after.decode()))
    assert registers["rax"] == int.from_bytes(
        bytes.fromhex(rows[written][1][3:].decode()), "little"
    )
    assert registers["efer"] & 0x500 == 0x500
    assert target.size == len(after) // 2
