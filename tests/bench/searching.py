"""How long a search through RAM takes, beside one C ``memmem`` over the same mapping."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from breenix_gdbagent.memory.ramfile import RamFile, ram_of_size
from breenix_gdbagent.views.search import in_ram
from tests.bench.harness import Row, cpu, judged, pairs

PAIRS = 5
MIB = 1 << 20
SIZE = 512 * MIB
PATTERN = b"breenix-gdbagent searches this"


def rows() -> Iterator[Row]:
    """RAM without a hole, the pattern at its end."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ram"
        block = os.urandom(8 * MIB)
        with path.open("wb") as out:
            for _ in range(SIZE // len(block)):
                out.write(block)
            out.seek(SIZE - len(PATTERN))
            out.write(PATTERN)
        memory = RamFile(path, ram_of_size(SIZE))
        with path.open("r+b") as file:
            mapping = (ctypes.c_char * SIZE).from_buffer(mmap.mmap(file.fileno(), SIZE))
        find = ctypes.CDLL(None).memmem
        find.restype = ctypes.c_void_p
        length, size = ctypes.c_size_t(SIZE), ctypes.c_size_t(len(PATTERN))

        def ours() -> None:
            assert list(in_ram(memory, PATTERN)) == [SIZE - len(PATTERN)]

        def theirs() -> None:
            assert find(mapping, length, PATTERN, size)

        both = pairs(cpu(ours), cpu(theirs), PAIRS)
    yield judged("search 512 MiB", both, "one C memmem", "ms", "<=", 3.0)
