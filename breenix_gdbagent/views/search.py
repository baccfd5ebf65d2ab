"""Where bytes occur: in RAM, or in one address space."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.memory import PhysicalMemory

CHUNK = 1 << 20
Find = Callable[[memoryview, bytes, int], int]
"""Offset of the pattern in the view from some offset on, -1 where it is not."""


def in_ram(memory: PhysicalMemory, pattern: bytes) -> Iterator[int]:
    """Physical addresses of `pattern`, ascending, overlaps included; what holds zeros alone is not
    looked at, so it must not be of zeros alone. Raises `ReadError`."""
    return _found(((int(pa), view) for pa, view in memory.filled()), pattern)


def in_space(kernel: Kernel, root: int, pattern: bytes) -> Iterator[int]:
    """Virtual addresses of `pattern` under `root`, by every mapping; what cannot be read is passed
    over. Raises `ReadError` where the space itself cannot be read."""
    read = kernel.memory_of(root).read

    def pieces() -> Iterator[tuple[int, memoryview]]:
        for one in kernel.merged.space(root).ranges:
            for va in range(one.start, one.end, CHUNK):
                try:
                    yield va, memoryview(read(va, min(CHUNK, one.end - va)))
                except ReadError:
                    continue

    return _found(pieces(), pattern)


def _found(pieces: Iterable[tuple[int, memoryview]], pattern: bytes) -> Iterator[int]:
    """Where it lies in pieces that ascend; also over the border of two that touch."""
    find = _finder()
    keep, tail, end = len(pattern) - 1, b"", -1
    for address, view in pieces:
        if keep and address == end:
            seam = memoryview(tail + bytes(view[:keep]))
            yield from _within(find, seam, pattern, address - len(tail))
        yield from _within(find, view, pattern, address)
        end = address + len(view)
        last = bytes(view[-keep:]) if keep else b""
        tail = (tail + last)[-keep:] if len(view) < keep else last


def _within(find: Find, view: memoryview, pattern: bytes, address: int) -> Iterator[int]:
    at = find(view, pattern, 0)
    while at >= 0:
        yield address + at
        at = find(view, pattern, at + 1)


class _Buffer(ctypes.Structure):
    """``Py_buffer`` (Python's C API, "Buffer Protocol")."""

    _fields_ = (
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p),
    )  # fmt: skip


@cache
def _finder() -> Find:
    """The C library's memmem, which reads a mapping where it lies: Python's own finders copy it
    first, or go byte by byte. Those where the C library has none."""
    try:
        memmem = ctypes.CDLL(None).memmem
        get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    except (AttributeError, OSError):
        return _by_pattern
    memmem.restype = ctypes.c_void_p
    memmem.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    get.argtypes = (ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int)
    release.argtypes = (ctypes.POINTER(_Buffer),)
    release.restype = None

    def find(view: memoryview, pattern: bytes, begin: int) -> int:
        buffer = _Buffer()
        get(view, ctypes.byref(buffer), 0)
        try:
            start = buffer.buf or 0
            length = max(view.nbytes - begin, 0)
            hit = memmem(start + begin, length, pattern, len(pattern))
        finally:
            release(ctypes.byref(buffer))
        return -1 if hit is None else int(hit) - start

    return find


def _by_pattern(view: memoryview, pattern: bytes, begin: int) -> int:
    hit = re.compile(re.escape(pattern)).search(view, begin)
    return -1 if hit is None else hit.start()
