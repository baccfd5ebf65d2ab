"""The Debug Adapter Protocol's messages on a byte stream: a header with the length, then JSON."""

from __future__ import annotations

import json
from typing import BinaryIO

from breenix_gdbagent.errors import LinkProtocolError
from breenix_gdbagent.jsonvalue import Json

Message = dict[str, Json]
MOST = 1 << 24
LONGEST_LINE = 1 << 12


def read_message(stream: BinaryIO) -> Message | None:
    """The next message, None at the end of the stream. Raises `LinkProtocolError`."""
    length = None
    while line := stream.readline(LONGEST_LINE):
        name, _, value = line.decode("latin-1").partition(":")
        if not line.strip():
            break
        if name.strip().lower() == "content-length" and value.strip().isdigit():
            length = int(value)
    else:
        return None
    if length is None or length > MOST:
        raise LinkProtocolError(
            "the editor sent a message without its length",
            fix="each begins with `Content-Length: N`, at most 16 MiB",
        )
    data = stream.read(length)
    if len(data) < length:
        return None
    try:
        found = json.loads(data)
    except ValueError as error:
        raise LinkProtocolError("the editor sent what is no JSON", str(error)) from error
    if not isinstance(found, dict):
        raise LinkProtocolError("the editor sent JSON that is no message")
    return found


def framed(message: Message) -> bytes:
    """A message as it goes over the wire."""
    data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(data), data)
