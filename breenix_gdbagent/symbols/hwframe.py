"""Whether the frame that the CPU pushes for an interrupt or exception lies at an address."""

from __future__ import annotations

from breenix_gdbagent.addresses import canonical
from breenix_gdbagent.x86.exceptions import FRAME, ExceptionFrame, ReadVirtual, parse_frame


def frame_at(read: ReadVirtual, address: int) -> ExceptionFrame | None:
    """The frame whose RIP is at virtual `address` when it can be one, else None.

    Beyond what every frame must be (`ExceptionFrame.plausible`) RSP was aligned to 16 bytes before
    the five pushes (SDM volume 3, 6.14.2), and RIP is canonical. Raises `ReadError`.
    """
    if address % 16 != 8:
        return None
    frame = parse_frame(read(address, FRAME.size))
    if not frame.clean or not frame.plausible() or not canonical(frame.rip):
        return None
    if frame.cpl == 3 and (frame.rip >> 47 or frame.rsp >> 47):
        return None
    return frame
