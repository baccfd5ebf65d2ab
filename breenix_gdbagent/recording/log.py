"""QEMU's log of a recording, gone through to its end: how many instructions it counts.

QEMU replay/replay-internal.h, of the form that 7.2 to 10.0 write: a header of 12 bytes, then events
of one byte each with what belongs to it, numbers with their highest byte first.
"""

from __future__ import annotations

import struct
from pathlib import Path

_FORM = 0xE0200C
_HEADER = 12
_ASYNC, _SHUTDOWN, _CHAR_WRITE, _CLOCK, _CHECKPOINT, _END = 3, 10, 22, 28, 30, 39
_QWORDS = (_ASYNC, _ASYNC + 1, _ASYNC + 5)
"""Bottom halves and block events: the number of the event."""
_CHAR_READ, _NET = _ASYNC + 4, _ASYNC + 6
_READ_ALL, _READ_ERROR, _AUDIO_OUT, _RANDOM = 23, 24, 25, 27
_U32 = struct.Struct(">I")


def last_count(path: Path) -> int | None:
    """The instruction count at the end of the log; None where the log is cut short or of a form
    that is not known here. Raises `OSError`."""
    data = path.read_bytes()
    if len(data) <= _HEADER or _U32.unpack_from(data)[0] != _FORM:
        return None
    try:
        return _count(data)
    except (struct.error, IndexError):
        return None


def _count(data: bytes) -> int | None:
    at, total = _HEADER, 0
    while True:
        kind = data[at]
        at += 1
        if kind == 0:
            total += _U32.unpack_from(data, at)[0]
            at += 4
        elif kind == _END:
            return total if at == len(data) else None
        else:
            size = _size(kind, data, at)
            if size is None:
                return None
            at += size


def _size(kind: int, data: bytes, at: int) -> int | None:
    """Bytes that belong to an event; None for one that is not known."""
    if kind in _QWORDS or kind == _CHAR_WRITE or _CLOCK <= kind < _CHECKPOINT:
        return 8
    if kind == _CHAR_READ:
        return 5 + int(_U32.unpack_from(data, at + 1)[0])
    if kind == _NET:
        return 9 + int(_U32.unpack_from(data, at + 5)[0])
    if kind in (_READ_ERROR, _AUDIO_OUT):
        return 4
    if kind == _READ_ALL:
        return 4 + int(_U32.unpack_from(data, at)[0])
    if kind == _RANDOM:
        return 8 + int(_U32.unpack_from(data, at + 4)[0])
    bare = kind in (1, 2, _ASYNC + 3) or _SHUTDOWN <= kind < _CHAR_WRITE or kind >= _CHECKPOINT
    return 0 if bare and kind < _END else None
