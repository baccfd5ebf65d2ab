"""Serial text: complete, in order, searched however it is cut."""

from __future__ import annotations

import itertools
import re
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.link.serial import PortText, SerialLines, SerialPort, Watch, follow


class Lines:
    def __init__(self, ports: int) -> None:
        pairs = [socket.socketpair() for _ in range(ports)]
        self.guest = [theirs for _, theirs in pairs]
        self.now = 0.0
        self.lines = SerialLines(
            [SerialPort.of_socket(ours) for ours, _ in pairs], lambda: self.now
        )

    def say(self, text: str, port: int = 0) -> None:
        self.guest[port].sendall(text.encode())
        self.lines.sync()


@pytest.fixture
def two() -> Iterator[Lines]:
    lines = Lines(2)
    yield lines
    lines.lines.close()
    for sock in lines.guest:
        sock.close()


def readable(sock: socket.socket, seconds: float = 0.0) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])


def test_chunks_have_port_and_time(two: Lines) -> None:
    two.say("one")
    two.now = 2.0
    two.say("two", port=1)
    two.say("three")
    chunks = two.lines.text.chunks
    assert [(c.port, c.seconds, c.data) for c in chunks] == [
        (0, 0.0, b"one"),
        (1, 2.0, b"two"),
        (0, 2.0, b"three"),
    ]
    assert two.lines.text.port(0) == "onethree"


def test_bytes_that_come_together_are_one_chunk(two: Lines) -> None:
    for letter in "hello":
        two.say(letter)
        two.now += 0.0005
    assert [c.data for c in two.lines.text.chunks] == [b"hello"]


def test_a_match_wakes_who_waits(two: Lines) -> None:
    watch = Watch([r"done \d+"])
    two.lines.add(watch)
    two.say("not yet\n")
    assert not readable(two.lines.wake)
    two.now = 3.0
    two.guest[1].sendall(b"all done 42 of 50\n")
    assert readable(two.lines.wake, 5.0)
    (match,) = two.lines.take(watch)
    assert (match.port, match.text, match.seconds) == (1, "done 42", 3.0)
    assert not readable(two.lines.wake)
    assert two.lines.take(watch) == []


def test_what_was_said_before_is_found_too_unless_passed_over(two: Lines) -> None:
    two.say("first marker\nsecond ")
    watch = Watch(["marker"])
    two.lines.add(watch)
    (found,) = two.lines.take(watch)
    later = Watch(["marker"], after={0: found.end})
    two.lines.add(later)
    two.say("marker\n")
    assert [m.start for m in two.lines.take(later)] == [20]
    two.lines.remove(later)
    two.say("marker")
    assert two.lines.take(later) == []


@given(
    st.text(alphabet="ab\nx$", max_size=60),
    st.lists(st.integers(0, 60), max_size=8),
    st.sampled_from(["ab", "a+b", "^b", "a$", "b\nx", "(?s)a.x", "x|ab", "ax?b"]),
)
def test_matches_do_not_depend_on_how_text_is_cut(text: str, cuts: list[int], pattern: str) -> None:
    """Judge: `re` over the finished text, for patterns whose matches cannot grow with more text."""
    text += "\n"
    edges = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    port, watch = PortText(), Watch([pattern])
    found = []
    for start, end in itertools.pairwise(edges):
        port.add(text[start:end].encode())
        found += watch.search(0, port, 0.0)
        port.finish_lines()
    expected = [m.span() for m in re.finditer(pattern, text, re.MULTILINE)]
    assert [(m.start, m.end) for m in found] == expected
    assert port.whole() == text


def test_a_character_cut_in_two(two: Lines) -> None:
    data = "\N{CHEQUERED FLAG} done".encode()
    watch = Watch(["\N{CHEQUERED FLAG} done"])
    two.lines.add(watch)
    for i in range(len(data)):
        two.guest[0].sendall(data[i : i + 1])
        two.lines.sync()
    assert len(two.lines.take(watch)) == 1


def test_the_last_line_is_of_who_spoke_last(two: Lines) -> None:
    assert two.lines.last_line == ""
    two.say("booting\nhalf a li")
    two.say("ne")
    assert two.lines.last_line == "half a line"
    two.say("log\r\n\n", port=1)
    assert two.lines.last_line == "log"


def test_text_after_the_end_of_qemu_is_complete(two: Lines) -> None:
    text = "".join(f"line {i}\n" for i in range(20_000))
    lines = two.lines

    def talk() -> None:
        two.guest[0].sendall(text.encode())
        for sock in two.guest:
            sock.close()

    import threading

    threading.Thread(target=talk).start()
    assert lines.drain(10)
    assert lines.text.port(0) == text


def test_typing_into_a_port(two: Lines) -> None:
    two.lines.send(b"help\n", port=1)
    assert two.guest[1].recv(100) == b"help\n"


def test_a_file_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "serial.txt"
    path.write_text("before\n")
    lines = SerialLines([follow(path)], lambda: 0.0)
    watch = Watch(["after"])
    lines.add(watch)
    with path.open("a") as file:
        file.write("after\n")
    assert readable(lines.wake, 5.0)
    lines.take(watch)
    lines.sync()
    assert lines.text.port(0) == "before\nafter\n"
    lines.close()
    with pytest.raises(InputError):
        follow(tmp_path / "none")


def test_what_is_no_pattern() -> None:
    with pytest.raises(InputError, match="no regular expression"):
        Watch(["(open"])
