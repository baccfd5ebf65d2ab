"""The RSP codec: framing, acknowledgement, pipelining, and what a bad line can do to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breenix_gdbagent.link import rsp
from breenix_gdbagent.link.rsp import Command, Connection, Role

payloads = st.binary(max_size=300)
plain = st.binary(max_size=60).filter(lambda p: p[:1] not in (b"S", b"T", b"W", b"X", b"O"))


def events(connection: Connection, chunks: Iterable[bytes]) -> list[rsp.Event]:
    out: list[rsp.Event] = []
    for chunk in chunks:
        if chunk:
            connection.receive_data(chunk)
        while (event := connection.next_event()) is not None:
            out.append(event)
    return out


def kinds(found: Iterable[object]) -> list[tuple[type, object]]:
    """Named tuples of two kinds with the same fields are equal: their kinds too, then."""
    return [(type(event), event) for event in found]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(payloads)
def test_checksum_is_the_sum_of_the_bytes(data: bytes) -> None:
    assert rsp.checksum(data * 5) == sum(data * 5) % 256


@given(payloads)
def test_escape_round_trip(payload: bytes) -> None:
    body = rsp.escape(payload)
    assert not set(body) & set(b"$#*")
    assert rsp.unescape(body) == payload


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        # The manual's own example: "0* " is "0000".
        (b"0* ", b"0000"),
        (b'x0*"y', b"x000000y"),
        (b"}\x03}\x04}]}\x0a", b"#$}*"),
        (b"}\x0a*!", b"*****"),
    ],
)
def test_run_lengths(body: bytes, payload: bytes) -> None:
    assert rsp.unescape(body) == payload


@pytest.mark.parametrize("body", [b"*!", b"a*", b"a}", b"a*\x10", b"a*\x7f"])
def test_broken_run_lengths_and_escapes(body: bytes) -> None:
    with pytest.raises(rsp.RemoteProtocolError):
        rsp.unescape(body)


def test_run_lengths_cannot_make_a_packet_grow_without_bound() -> None:
    with pytest.raises(rsp.RemoteProtocolError):
        rsp.unescape(b"a" + b"*~" * 100, limit=1000)


@given(st.lists(plain, min_size=1, max_size=6), st.lists(st.integers(0, 4000), max_size=12))
def test_any_chunking_gives_the_same_answers_in_order(
    answers: list[bytes], cuts: list[int]
) -> None:
    client = Connection()
    commands = [Command(b"m%x,4" % i) for i in range(len(answers))]
    for command in commands:
        client.send(command)
    stream = b"".join(b"+" + rsp.frame(a) for a in answers)
    got = events(client, cut(stream, cuts))
    assert kinds(got) == kinds([rsp.Reply(a, c) for a, c in zip(answers, commands, strict=True)])
    assert client.data_to_send() == b"+" * len(answers)
    assert client.in_flight == ()


@given(st.lists(payloads, max_size=6), st.lists(st.integers(0, 4000), max_size=12))
def test_a_stub_reads_what_a_client_sends(messages: list[bytes], cuts: list[int]) -> None:
    client, stub = Connection(), Connection(Role.STUB)
    stream = b"".join(client.send(Command(m)) for m in messages) + client.send(rsp.Interrupt())
    got = events(stub, cut(stream, cuts))
    assert kinds(got) == kinds([*(rsp.Packet(m) for m in messages), rsp.Interrupt()])


def test_acknowledgements_go_out_in_front_of_the_next_command() -> None:
    client = Connection()
    assert client.send(Command(b"g")) == b"$g#67"
    events(client, [b"+$00#60"])
    assert client.send(Command(b"g")) == b"+$g#67"
    assert client.data_to_send() == b""


def test_a_damaged_packet_is_asked_for_again_up_to_the_limit() -> None:
    client = Connection(resend_limit=2)
    ask = Command(b"g")
    client.send(ask)
    assert kinds(events(client, [b"+$00#61"])) == kinds([rsp.Damaged(b"00")])
    assert client.data_to_send() == b"-"
    assert kinds(events(client, [b"$00#zz"])) == kinds([rsp.Damaged(b"00")])
    assert client.data_to_send() == b"-"
    assert kinds(events(client, [b"$00#60"])) == kinds([rsp.Reply(b"00", ask)])
    client.send(Command(b"g"))
    with pytest.raises(rsp.RemoteProtocolError):
        events(client, [b"+" + b"$00#61" * 3])
    assert client.next_event() is None


def test_a_command_refused_as_damaged_is_sent_again_up_to_the_limit() -> None:
    client = Connection(resend_limit=2)
    ask = Command(b"g")
    client.send(ask)
    assert kinds(events(client, [b"-"])) == kinds([rsp.Resent(ask)])
    assert client.data_to_send() == b"$g#67"
    assert kinds(events(client, [b"-"])) == kinds([rsp.Resent(ask)])
    with pytest.raises(rsp.RemoteProtocolError):
        events(client, [b"-"])


def test_a_refused_command_inside_a_pipeline_is_answered_last() -> None:
    client = Connection()
    first, second = Command(b"m0,1"), Command(b"m1,1")
    client.send(first)
    client.send(second)
    assert kinds(events(client, [b"-", b"+", rsp.frame(b"22")])) == kinds(
        [
            rsp.Resent(first),
            rsp.Reply(b"22", second),
        ]
    )
    assert client.data_to_send() == rsp.frame(b"m0,1") + b"+"
    assert kinds(events(client, [b"+", rsp.frame(b"11")])) == kinds([rsp.Reply(b"11", first)])


def test_a_damaged_reply_in_a_pipeline_is_lost_and_not_another_ones() -> None:
    client = Connection()
    first, second = Command(b"m0,1"), Command(b"m1,1")
    client.send(first)
    client.send(second)
    got = events(client, [b"+$11#00", b"+" + rsp.frame(b"22")])
    assert kinds(got) == kinds([rsp.Lost(first), rsp.Reply(b"22", second)])
    assert b"-" not in client.data_to_send()


def test_a_reply_that_never_came_is_lost_when_the_next_command_is_acknowledged() -> None:
    client = Connection()
    first, second = Command(b"m0,1"), Command(b"m1,1")
    client.send(first)
    client.send(second)
    assert kinds(events(client, [b"++" + rsp.frame(b"22")])) == kinds(
        [
            rsp.Lost(first),
            rsp.Reply(b"22", second),
        ]
    )


def test_a_repeated_reply_is_not_taken_for_the_next_answer() -> None:
    client = Connection()
    client.send(Command(b"m0,1"))
    events(client, [b"+" + rsp.frame(b"11")])
    second = Command(b"m1,1")
    client.send(second)
    assert kinds(events(client, [rsp.frame(b"11"), b"+", rsp.frame(b"22")])) == kinds(
        [
            rsp.Repeated(b"11"),
            rsp.Reply(b"22", second),
        ]
    )


def test_a_lost_plus_does_not_lose_the_answer() -> None:
    client = Connection()
    ask = Command(b"m0,1")
    client.send(ask)
    assert kinds(events(client, [rsp.frame(b"11")])) == kinds([rsp.Reply(b"11", ask)])


def test_stop_replies_asked_for_and_not() -> None:
    client = Connection()
    ask, run = Command(b"qSupported"), Command(b"c", awaits_stop=True)
    client.send(ask)
    # QEMU 7.2 says this on every connect to a running guest, before it answers anything.
    stop = b"T02thread:01;"
    assert kinds(events(client, [rsp.frame(stop), b"+", rsp.frame(b"PacketSize=1000")])) == kinds(
        [
            rsp.Stopped(stop, None),
            rsp.Reply(b"PacketSize=1000", ask),
        ]
    )
    client.send(run)
    assert kinds(events(client, [b"+"])) == kinds([])
    assert client.in_flight == (run,)
    assert kinds(events(client, [rsp.frame(b"T05thread:01;")])) == kinds(
        [rsp.Stopped(b"T05thread:01;", run)]
    )


def test_console_text_and_notifications_answer_nothing() -> None:
    client = Connection()
    ask = Command(b"qRcmd,78")
    client.send(ask)
    got = events(client, [b"+", rsp.frame(b"O6869"), rsp.frame(b"Stop:T05", b"%"), b"$OK#9a"])
    assert kinds(got) == kinds(
        [rsp.Console(b"hi"), rsp.Notification(b"Stop:T05"), rsp.Reply(b"OK", ask)]
    )


def test_a_packet_that_lost_its_end_does_not_swallow_the_next() -> None:
    client = Connection()
    client.send(Command(b"?", awaits_stop=True))
    got = events(client, [b"+$T0", rsp.frame(b"T05")])
    assert [type(e) for e in got] == [rsp.Stopped]


def test_the_buffer_is_bounded() -> None:
    client = Connection(max_packet=1000)
    with pytest.raises(rsp.RemoteProtocolError):
        events(client, [b"$" + b"a" * 400] + [b"a" * 400] * 3)


def test_what_is_no_packet_is_kept_for_the_error_message_only() -> None:
    client = Connection()
    assert kinds(events(client, [b'{"QMP": {"version"'] + [b"x" * 1000] * 100)) == kinds([])
    assert client.junk.startswith(b'{"QMP": {"version"')
    assert len(client.junk) == 64
    assert client.junk_bytes == 100_018


def test_the_end_says_what_was_unfinished() -> None:
    client = Connection()
    assert kinds(events(client, [b"$abc"])) == kinds([])
    client.receive_data(b"")
    assert client.next_event() == rsp.Closed(b"$abc")
    assert client.next_event() is None
    with pytest.raises(rsp.LocalProtocolError):
        client.send(Command(b"g"))


def test_sides_are_not_mixed_up() -> None:
    with pytest.raises(rsp.LocalProtocolError):
        Connection().send(rsp.Packet(b"OK"))
    with pytest.raises(rsp.LocalProtocolError):
        Connection(Role.STUB).send(Command(b"g"))


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_ends_in_events_or_one_typed_error(chunks: list[bytes]) -> None:
    for role in Role:
        connection = Connection(role, max_packet=500)
        if role is Role.CLIENT:
            connection.send(Command(b"g"))
        try:
            events(connection, chunks)
        except rsp.RemoteProtocolError:
            assert connection.next_event() is None


@given(
    st.lists(st.sampled_from([b"", b"00", b"OK", b"E14", b"a5" * 40, b"0* ", b"T05", b"6z"])),
    st.lists(st.integers(0, 300), max_size=6),
    st.integers(0, 300),
)
def test_the_short_cut_for_memory_says_what_the_events_say(
    answers: list[bytes], cuts: list[int], spoiled: int
) -> None:
    stream = b"".join(b"+$%b#%02x" % (a, rsp.checksum(a)) for a in answers)
    if spoiled < len(stream):
        stream = stream[:spoiled] + b"!" + stream[spoiled + 1 :]
    told: list[list[tuple[bytes, object]]] = []
    for short in (False, True):
        client, out = Connection(), []
        for i in range(len(answers)):
            client.send(Command(b"m%x,1" % i))
        for piece in cut(stream, cuts):
            if piece:
                client.receive_data(piece)
            while True:
                if short and (found := client.next_memory()) is not None:
                    out.append((found[0].payload, found[1].hex().encode()))
                    continue
                event = client.next_event()
                if event is None:
                    break
                if isinstance(event, (rsp.Reply, rsp.Stopped)):
                    asked = event.command.payload if event.command else b""
                    out.append((asked, event.payload))
                else:
                    out.append((b"", type(event)))
        told.append([*out, (b"owed", client.data_to_send())])
    assert told[0] == told[1]


def answer(payload: bytes) -> bytes:
    """A stub whose every answer tells which command it answers."""
    return b"a" + payload[1:] * (1 + payload[-1] % 3)


@st.composite
def faults(draw: st.DrawFn) -> tuple[str, int, int]:
    return (
        draw(st.sampled_from(["lose", "double", "flip"])),
        draw(st.integers(0, 400)),
        draw(st.integers(0, 6)),
    )


@given(st.lists(faults(), max_size=3), st.booleans())
def test_a_bad_line_never_gives_a_wrong_answer(
    plan: list[tuple[str, int, int]], pipelined: bool
) -> None:
    """Whole frames lost or doubled, single bits flipped in replies: right, lost, or nothing.

    A pipeline counts only when every command of it is answered, as the client above demands.
    """
    client, stub = Connection(), Connection(Role.STUB)
    commands = [Command(b"m%x," % (i * 7)) for i in range(6)]
    rounds = [commands] if pipelined else [[c] for c in commands]
    count = 0
    for batch in rounds:
        wire = b"".join(client.send(c) for c in batch)
        answered: dict[Command, bytes] = {}
        for _ in range(12):
            out: list[bytes] = []
            stub.receive_data(wire or b"+")
            while (event := stub.next_event()) is not None:
                if isinstance(event, rsp.Packet):
                    out += [b"+", stub.send(rsp.Packet(answer(event.payload))).lstrip(b"+")]
            stub.data_to_send()
            damaged = []
            for piece in out:
                for kind, where, bit in plan:
                    if where == count:
                        if kind == "lose":
                            piece = b""
                        elif kind == "double":
                            piece = piece * 2
                        elif len(piece) > 1:
                            at = 1 + where % (len(piece) - 1)
                            flipped = piece[at] ^ (1 << bit)
                            piece = piece[:at] + bytes([flipped]) + piece[at + 1 :]
                count += 1
                damaged.append(piece)
            for event in events(client, damaged):
                if isinstance(event, rsp.Reply) and event.command is not None:
                    answered[event.command] = event.payload
            wire = client.data_to_send()
            if not client.in_flight:
                break
        if all(c in answered for c in batch):
            for c in batch:
                assert answered[c] == answer(c.payload)
        if client.in_flight:
            return


def test_events_of_different_kinds_are_never_equal() -> None:
    assert rsp.Reply(b"x", None) == rsp.Reply(b"x", None)
    assert rsp.Reply(b"x", None) != rsp.Stopped(b"x", None)
    assert rsp.Packet(b"x") != rsp.Notification(b"x")
    assert rsp.Interrupt() == rsp.Interrupt() != rsp.Packet(b"")
    assert rsp.Reply(b"x", None) != (b"x", None)
    assert len({rsp.Reply(b"x", None), rsp.Stopped(b"x", None), rsp.Reply(b"x", None)}) == 2
    assert repr(rsp.Packet(b"x")) == "Packet(payload=b'x')"
