"""The exception that a stop is about: the frame the CPU pushed, read where it lies."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.cpu import Cpu

WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17, 21, 29, 30})  # SDM vol. 3, table 6-1


@dataclass(frozen=True, slots=True)
class Event:
    """One delivered exception: vector, error code (None where the vector has none), and the
    interrupted context as it stands in the frame at `frame_at`."""

    vector: int
    error_code: int | None
    rip: VirtAddr
    cs: int
    rflags: int
    rsp: VirtAddr
    ss: int
    frame_at: VirtAddr

    @property
    def cpl(self) -> int:
        """Privilege level of what was interrupted."""
        return self.cs & 3


def event_at_handler(cpu: Cpu, vector: int, read: Callable[[int, int], bytes]) -> Event:
    """The frame at the handler's first instruction: [RSP] is the error code where the vector has
    one, then RIP, CS, RFLAGS, RSP, SS (SDM vol. 3, 6.14.2). Raises `ReadError`."""
    at = cpu.rsp
    error_code = None
    frame = at
    if vector in WITH_ERROR_CODE:
        error_code = int.from_bytes(read(at, 8), "little") & 0xFFFF_FFFF
        frame = VirtAddr(at + 8)
    try:
        rip, cs, rflags, rsp, ss = struct.unpack("<5Q", read(frame, 40))
    except struct.error as short:
        raise ReadError(f"the exception frame at {frame:#x} is cut short") from short
    return Event(
        vector,
        error_code,
        VirtAddr(rip),
        cs & 0xFFFF,
        rflags,
        VirtAddr(rsp),
        ss & 0xFFFF,
        frame,
    )
