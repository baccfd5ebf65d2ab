"""The report made when a stop was saved, kept behind the last byte of its ELF core.

What a report says follows from the file's bytes, the kernel's ELF and the agent: while all three
are what they were, it need not be made again; the agent is known by its code, not by its version
(`snapshot.agent`). Layout, from the core's end to the file's::

    zlib stream of one JSON object {agent, elf, document}
    u64 length of the stream   u32 CRC-32 of the whole file before this field   8 bytes MAGIC
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import zlib
from collections.abc import Mapping
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple, cast

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.memory.mapped import MappedFile
from breenix_gdbagent.snapshot.agent import agent, changed_since_start

MAGIC = b"BGAREPT1"
MOST_BYTES = 64 << 20
"""More than any report of ours has."""
MOST_FILE = 64 << 20
"""Of a larger file the sum costs more time than the examination saves."""
_LENGTH = Struct("<Q")
_SEAL = Struct("<I8s")


class ReportTrailer(NamedTuple):
    """A report out of a file. `elf` is the SHA-256 of the kernel's ELF that it was made with."""

    document: dict[str, Json]
    elf: str | None


def append_trailer(out: BinaryIO, document: Mapping[str, Json], elf: str | None) -> None:
    """Adds the report to the complete core in `out`, which stays open. A file that cannot be read
    back (a device) or is larger than `MOST_FILE` stays without, and so does every file where it is
    not known which code made the report. Raises `OSError`."""
    out.flush()
    status = os.fstat(out.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_FILE:
        return
    ours = agent()
    if ours is None or changed_since_start():
        return
    content = {"agent": ours, "elf": elf, "document": document}
    stream = zlib.compress(json.dumps(content, separators=(",", ":")).encode("ascii"), 1)
    added = stream + _LENGTH.pack(len(stream))
    with mmap.mmap(out.fileno(), 0, access=mmap.ACCESS_READ) as core:
        total = zlib.crc32(added, zlib.crc32(core))
    out.seek(0, os.SEEK_END)
    out.write(added + _SEAL.pack(total, MAGIC))


def read_trailer(path: Path) -> ReportTrailer | None:
    """The report that the file holds; None where it holds none, or anything in the file is not as
    it was written, or an agent of other code wrote it. Never raises: who gets nothing here
    opens the file, and is told what is wrong with it."""
    try:
        data = MappedFile(path).data
        if not _LENGTH.size + _SEAL.size < len(data) <= 2 * MOST_FILE:
            return None
        return _read(data)
    except (InputError, ValueError, KeyError, TypeError, RecursionError, zlib.error):
        return None


def _read(data: memoryview) -> ReportTrailer | None:
    end = len(data) - _SEAL.size
    total, magic = _SEAL.unpack_from(data, end)
    if magic != MAGIC:
        return None
    if zlib.crc32(data[:end]) != total:
        return None
    end -= _LENGTH.size
    (length,) = _LENGTH.unpack_from(data, end)
    content = json.loads(zlib.decompressobj().decompress(data[end - length : end], MOST_BYTES))
    if content["agent"] is None or content["agent"] != agent():
        return None
    return ReportTrailer(cast(dict[str, Json], content["document"]), content["elf"])
