"""Ten thousand damaged conversations: events or one typed error, in bounded time and memory."""

from __future__ import annotations

import json
import random
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from breenix_gdbagent.errors import LinkProtocolError
from breenix_gdbagent.link import rsp
from breenix_gdbagent.link.hmptext import parse_ram_map, parse_registers
from breenix_gdbagent.link.rsp import Command, Connection, Role
from breenix_gdbagent.link.stopreply import StopReply
from breenix_gdbagent.link.targetxml import describe
from tests.unit.link.test_recorded_gdb import SESSIONS, TRANSCRIPTS

ROUNDS = 10_000
MOST_PACKET = 4096
MARKS = b"$#%*}+-\x03"


def recorded(sender: str) -> bytes:
    """All that one side said in the recorded session."""
    rows = (TRANSCRIPTS / f"{SESSIONS[0]}.jsonl").read_text().splitlines()
    return b"".join(
        bytes.fromhex(row["data"])
        for row in map(json.loads, rows)
        if (row["from"] == "gdb") == (sender == "gdb")
    )


def damaged(honest: bytes, dice: random.Random) -> bytes:
    """A piece of a real conversation with bytes changed, lost, doubled and put in; or noise."""
    if dice.random() < 0.1:
        return dice.randbytes(dice.randrange(1, 600))
    start = dice.randrange(len(honest))
    data = bytearray(honest[start : start + dice.randrange(1, 2000)])
    for _ in range(dice.randrange(8)):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes([dice.getrandbits(8)])
        elif kind == 1:
            del data[at : at + dice.randrange(20)]
        elif kind == 2:
            data[at:at] = data[at : at + dice.randrange(40)]
        elif kind == 3:
            data[at:at] = bytes([dice.choice(MARKS)])
        else:
            data[at:at] = b"*" + bytes([dice.randrange(29, 127)])
    return bytes(data)


def talk(role: Role, stream: bytes, dice: random.Random) -> int:
    """The stream through a codec that has asked a little; how many events came."""
    codec = Connection(role, max_packet=MOST_PACKET)
    count = 0
    at = 0
    while at < len(stream):
        if role is Role.CLIENT and dice.random() < 0.3:
            codec.send(Command(dice.choice((b"g", b"?", b"c", b"m0,8")), awaits_stop=False))
        step = dice.randrange(1, 400)
        codec.receive_data(stream[at : at + step])
        at += step
        while True:
            if role is Role.CLIENT and dice.random() < 0.5 and codec.next_memory() is not None:
                count += 1
                continue
            event = codec.next_event()
            if event is None:
                break
            count += 1
            payload = getattr(event, "payload", b"")
            assert len(payload) <= MOST_PACKET
        assert len(codec.data_to_send()) < 1 << 16
    assert len(codec.junk) <= 64
    return count


def rounds(numbers: range) -> tuple[int, int]:
    """(events, refusals) of so many damaged conversations."""
    honest = {Role.CLIENT: recorded("stub"), Role.STUB: recorded("gdb")}
    seen = refused = 0
    for seed in numbers:
        dice = random.Random(seed)
        role = dice.choice(tuple(Role))
        try:
            seen += talk(role, damaged(honest[role], dice), dice)
        except rsp.RspError as error:
            assert isinstance(error, rsp.RemoteProtocolError), error
            refused += 1
        except rsp.LocalProtocolError:
            raise AssertionError("the peer's bytes are not our fault") from None
    return seen, refused


def test_ten_thousand_damaged_conversations() -> None:
    seen, refused = rounds(range(ROUNDS))
    assert seen > ROUNDS and 0 < refused < ROUNDS / 2, "both ways are taken"


def test_their_memory_is_bounded() -> None:
    rounds(range(10))
    tracemalloc.start()
    try:
        rounds(range(ROUNDS, ROUNDS + 500))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


TEXTS = sorted(Path(TRANSCRIPTS).glob("*.txt"))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_damaged_monitor_texts_are_read_or_left(path: Path) -> None:
    """HMP text is no stable interface: what is not understood is absent, never an exception."""
    honest = path.read_bytes()
    for seed in range(2_000):
        text = damaged(honest, random.Random(seed)).decode("latin-1")
        ram = parse_ram_map(text)
        for one, after in pairwise(ram.ranges):
            assert one.start < one.end <= after.start
        parse_registers(text)


def test_damaged_stop_replies_and_descriptions() -> None:
    stub = recorded("stub")
    refused = 0
    for seed in range(ROUNDS):
        dice = random.Random(seed)
        piece = damaged(stub, dice)[: dice.randrange(1, 300)]
        for call in (
            lambda d=piece: StopReply.parse(b"T" + d),
            lambda d=piece: describe(lambda annex: d),
        ):
            try:
                call()
            except LinkProtocolError as error:
                assert len(str(error).splitlines()) <= 3
                refused += 1
    assert refused
