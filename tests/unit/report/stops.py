"""Captured stops of real kernels with their serial text, as the commands would have them."""

from __future__ import annotations

from breenix_gdbagent.memory.ramfile import parse_ram_size
from breenix_gdbagent.snapshot.opening import open_snapshot
from breenix_gdbagent.stop import SerialChunk, SerialText, Stop, StopReason
from tests.unit.captures import capture

_PIECE = 997  # no divisor of anything: chunks end in the middle of lines and characters
VECTORS = {"breenix-first-gp": 13, "breenix-head-cow-fault": 14}


def stop(name: str) -> Stop:
    """The stop of a capture; skips where captures are not here. Serial text has made-up times."""
    folder = capture(name)
    chunks = []
    for port, file in enumerate(("serial.txt", "serial2.txt")):
        path = folder / file
        data = path.read_bytes() if path.is_file() else b""
        chunks += [
            SerialChunk(port, at / 1e5, data[at : at + _PIECE])
            for at in range(0, len(data), _PIECE)
        ]
    chunks.sort(key=lambda chunk: chunk.seconds)
    vector = VECTORS.get(name)
    reason = StopReason("fault", 0, vector) if vector is not None else StopReason("core")
    opened = open_snapshot(folder / "core.elf", parse_ram_size("512M"))
    return opened._replace(reason=reason, serial=SerialText(tuple(chunks)))
