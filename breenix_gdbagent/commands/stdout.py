"""Standard output whose reader may leave early: ``lab | head`` is no failure."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

WHOLE = 1 << 20
"""Bytes that are held back until the answer is complete: a signal leaves all of it or nothing."""


class _Pipe(io.FileIO):
    """Goes on into nothing once nobody reads any more: the command ends with its own exit code."""

    left = False

    def write(self, data: ReadableBuffer, /) -> int:
        """As `FileIO.write`; nothing raised for a reader that has gone."""
        try:
            return super().write(data)
        except BrokenPipeError:
            _Pipe.left = True
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


def reader_left() -> bool:
    """Whether nobody reads our output any more: what never ends by itself should end then."""
    return _Pipe.left


def guard() -> None:
    """Replace the process's own `sys.stdout`, where it is one and no terminal."""
    ours = sys.stdout
    if ours is not sys.__stdout__ or not isinstance(ours, io.TextIOWrapper) or ours.isatty():
        return
    raw = _Pipe(ours.fileno(), "w", closefd=False)
    held = io.BufferedWriter(raw, WHOLE)
    sys.stdout = io.TextIOWrapper(held, ours.encoding, ours.errors)
    sys.__stdout__ = sys.stdout  # type: ignore[misc]  # two buffers would mix up their order
