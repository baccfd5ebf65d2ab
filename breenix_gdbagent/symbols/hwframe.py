"""The frame that the CPU pushes for an interrupt or exception, recognised by what it must be.

Source: Intel SDM volume 3, section 6.14.2 (64-bit stack frame: the CPU aligns RSP to 16 bytes,
then pushes SS, RSP, RFLAGS, CS, RIP and, for some vectors, an error code) and table 6-1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from breenix_gdbagent.addresses import canonical

_RFLAGS_ONE = 1 << 1
# Bits 3, 5, 15 and all from 22 up are zero (SDM volume 1, figure 3-8).
_RFLAGS_ZERO = ~0x3F7FD7 & ((1 << 64) - 1) | 1 << 3 | 1 << 5 | 1 << 15
_SIZE = 40


@dataclass(frozen=True, slots=True)
class HardwareFrame:
    """RIP, CS, RFLAGS, RSP, SS as pushed, found at virtual `address` (where RIP is)."""

    address: int
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int

    @property
    def ring(self) -> int:
        """The privilege level that was interrupted."""
        return self.cs & 3


def read_frame(read: Callable[[int, int], bytes], address: int) -> HardwareFrame | None:
    """The frame at `address` when it can be one, else None. Raises `ReadError`.

    The alignment, the selectors and the fixed bits of RFLAGS are checked, RIP only for being
    canonical: an interrupted jump to nowhere has any RIP.
    """
    if address % 16 != 8:
        return None
    rip, cs, rflags, rsp, ss = struct.unpack("<5Q", read(address, _SIZE))
    if not rflags & _RFLAGS_ONE or rflags & _RFLAGS_ZERO:
        return None
    if cs >> 16 or ss >> 16 or cs < 8 or cs & 3 not in (0, 3):
        return None
    # SS may be null in ring 0 after a change of stack (SDM 6.14.4).
    if ss & 3 != cs & 3 or (ss < 4 and cs & 3):
        return None
    if not canonical(rip) or not canonical(rsp):
        return None
    if cs & 3 == 3 and (rip >> 47 or rsp >> 47):
        return None
    return HardwareFrame(address, rip, cs, rflags, rsp, ss)
