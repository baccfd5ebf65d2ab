"""Messages of the Debug Adapter Protocol on a byte stream."""

from __future__ import annotations

import io

import pytest

from breenix_gdbagent.editors.adapter import Adapter
from breenix_gdbagent.editors.wire import Message, framed, read_message
from breenix_gdbagent.errors import AgentError, LinkProtocolError
from breenix_gdbagent.jsonvalue import Json


def test_what_is_framed_is_read() -> None:
    messages: list[Message] = [{"seq": 1, "text": "größer"}, {"seq": 2, "arguments": {"a": [1]}}]
    stream = io.BytesIO(b"".join(map(framed, messages)))
    assert [read_message(stream), read_message(stream), read_message(stream)] == [*messages, None]


def test_headers_are_read_in_any_case_and_order() -> None:
    data = b"content-type: x\r\nCONTENT-LENGTH:2\r\n\r\n{}"
    assert read_message(io.BytesIO(data)) == {}


@pytest.mark.parametrize(
    "data",
    [b"\r\n", b"Content-Length: x\r\n\r\n{}", b"Content-Length: 99999999999\r\n\r\n",
     b"Content-Length: 2\r\n\r\n[]", b"Content-Length: 3\r\n\r\n{a}"],
)  # fmt: skip
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(LinkProtocolError):
        read_message(io.BytesIO(data))


@pytest.mark.parametrize("data", [b"", b"Content-Le", b"Content-Length: 9\r\n\r\n{}"])
def test_a_stream_that_ends_within_a_message_has_ended(data: bytes) -> None:
    assert read_message(io.BytesIO(data)) is None


def _asked(*requests: Message) -> list[Message]:
    """What an adapter without a guest answers."""

    def guard(job: object) -> Json | AgentError:
        try:
            return job()  # type: ignore[operator,no-any-return]
        except AgentError as error:
            return error

    sent: list[Message] = []
    waiting = iter(requests)
    Adapter(sent.append, guard).serve(lambda: next(waiting, None))
    return sent


def test_requests_before_a_guest_are_refused_in_words() -> None:
    names = ("stackTrace", "continue", "evaluate", "threads", "next", "pause", "nonsense", "launch")
    asked: list[Message] = [
        {"type": "request", "seq": n, "command": name} for n, name in enumerate(names)
    ]
    answers = _asked(*asked)
    assert [one["request_seq"] for one in answers] == list(range(len(names)))
    assert [one["seq"] for one in answers] == list(range(1, len(names) + 1))
    assert not any(one["success"] for one in answers)
    assert all(one["message"] for one in answers)


def test_capabilities_are_told_and_disconnect_ends_it() -> None:
    first, second = _asked(
        {"type": "request", "seq": 1, "command": "initialize", "arguments": {}},
        {"type": "request", "seq": 2, "command": "disconnect"},
        {"type": "request", "seq": 3, "command": "threads"},
    )
    assert isinstance(first["body"], dict) and first["body"]["supportsLogPoints"]
    assert second["success"]
