"""Disks that can keep snapshots: a qcow2 file written from a raw image, or an empty one.

QEMU docs/interop/qcow2.txt. One file that holds all of its data itself: no backing file, and so
no path, that a recording would lose when it is moved. Clusters of zeros take no room.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAGIC = b"QFI\xfb"
_BITS = 16
CLUSTER = 1 << _BITS
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_HEADER_LENGTH = 104
_VERSION = 3
_REFCOUNT_ORDER = 4
_PER_TABLE = CLUSTER // 8
"""Entries of an L2 table, and of a refcount table, in one cluster."""
_PER_REFCOUNTS = CLUSTER // 2
_COPIED = 1 << 63
"""The cluster is used once, and may be written in place."""
_ZEROS = bytes(CLUSTER)


def write_empty(path: Path, size: int) -> None:
    """An empty disk of `size` bytes. Raises `OSError`."""
    _write(path, size, iter(()))


def write_copy(path: Path, raw: Path) -> None:
    """The raw image `raw` as a qcow2. Raises `OSError`."""
    with raw.open("rb") as source:
        _write(path, raw.stat().st_size, _clusters(source))


def _clusters(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Number and data of each cluster that is not all zeros; holes are not read."""
    fd = source.fileno()
    end = os.fstat(fd).st_size
    at = 0
    while at < end:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # nothing but a hole up to the end (ENXIO)
        hole = os.lseek(fd, begin, os.SEEK_HOLE)
        at = max(at, begin // CLUSTER * CLUSTER)
        while at < hole:
            data = os.pread(fd, CLUSTER, at)
            if data != _ZEROS[: len(data)]:
                yield at // CLUSTER, data.ljust(CLUSTER, b"\0")
            at += CLUSTER


def _write(path: Path, size: int, clusters: Iterator[tuple[int, bytes]]) -> None:
    """Header, L1 table, data, L2 tables, refcounts, in that order."""
    tables = -(-size // (CLUSTER * _PER_TABLE))
    first = 1 + -(-tables * 8 // CLUSTER)
    level1 = [0] * tables
    level2: dict[int, list[int]] = {}
    with path.open("xb") as file:
        at = first
        file.seek(at * CLUSTER)
        for number, data in clusters:
            file.write(data)
            table = level2.setdefault(number // _PER_TABLE, [0] * _PER_TABLE)
            table[number % _PER_TABLE] = at * CLUSTER | _COPIED
            at += 1
        for number, table in level2.items():
            file.write(struct.pack(f">{_PER_TABLE}Q", *table))
            level1[number] = at * CLUSTER | _COPIED
            at += 1
        blocks, refcount_table = _refcounts(file, at)
        file.seek(0)
        file.write(_header(size, tables, refcount_table, blocks))
        file.seek(CLUSTER)
        file.write(struct.pack(f">{tables}Q", *level1))


def _refcounts(file: BinaryIO, used: int) -> tuple[int, int]:
    """Refcount blocks for the `used` clusters and their own, and the table of them: how many
    clusters that has, and where it begins."""
    blocks = 1
    while True:
        room = -(-blocks // _PER_TABLE)
        if blocks * _PER_REFCOUNTS >= used + blocks + room:
            break
        blocks += 1
    every = used + blocks + room
    counts = struct.pack(">H", 1) * every
    file.write(counts.ljust(blocks * CLUSTER, b"\0"))
    where = [(used + n) * CLUSTER for n in range(blocks)]
    file.write(struct.pack(f">{blocks}Q", *where).ljust(room * CLUSTER, b"\0"))
    return room, (used + blocks) * CLUSTER


def _header(size: int, tables: int, refcount_table: int, room: int) -> bytes:
    return _HEADER.pack(
        MAGIC, _VERSION, 0, 0, _BITS, size, 0, tables, CLUSTER, refcount_table, room,
        0, 0, 0, 0, 0, _REFCOUNT_ORDER, _HEADER_LENGTH,
    )  # fmt: skip
