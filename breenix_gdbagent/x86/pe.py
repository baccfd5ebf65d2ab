"""Programs of UEFI in memory: PE images, whose headers the firmware keeps where it loads them.

Source: Microsoft PE/COFF specification; UEFI specification, 2.1.1 (the subsystems).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from breenix_gdbagent.addresses import PAGE, VirtAddr, page_base
from breenix_gdbagent.errors import ReadError

ReadVirtual = Callable[[int, int], bytes]

REACH = 16 << 20
"""No image is looked for further below than this."""
EFI_SUBSYSTEMS = range(10, 14)
_X86_64, _PE32_PLUS = 0x8664, 0x20B
_HEADER = 0x40


def image_holding(read: ReadVirtual, va: int) -> VirtAddr | None:
    """The base of the UEFI program that `va` is in; None where there is none. `read(va, length)`
    raises `ReadError`."""
    for base in range(page_base(va), max(page_base(va) - REACH, -1), -PAGE):
        try:
            if read(base, 2) == b"MZ" and va < base + _size(read, base):
                return VirtAddr(base)
        except ReadError:
            return None
    return None


def _size(read: ReadVirtual, base: int) -> int:
    """Bytes of the image at `base`, 0 for what is no program of UEFI."""
    at = int.from_bytes(read(base + 0x3C, 4), "little")
    if not _HEADER <= at < PAGE - 0x80:
        return 0
    signature, machine = struct.unpack("<4sH", read(base + at, 6))
    magic, size, subsystem = struct.unpack("<H54xI8xH", read(base + at + 24, 70))
    known = signature == b"PE\0\0" and machine == _X86_64 and magic == _PE32_PLUS
    return int(size) if known and subsystem in EFI_SUBSYSTEMS else 0
