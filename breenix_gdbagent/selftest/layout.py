"""What the runner reads and writes in its pages, as `fixtures/selftest/runner.s` has it."""

from __future__ import annotations

import struct

from construct import Int8ul, Int16ul, Int24ul, Int32ul, Int64ul, Padded, Padding, Struct

# Places in bytes from the runner's start.
DONE = 0x7F0
HANDLERS, HANDLER_SIZE = 0x800, 16
USER_PAGE = 0x1000
GDT, TSS, IDT = 0x2000, 0x2080, 0x2400
IST1 = 0x4000
CASES = 0x1_0000

# A selftest has 900,000 of each, which would take `construct` 13 s.
CASE, RESULT = struct.Struct("<Q3B5x"), struct.Struct("<4Q")
"""Address, kind, ring, AC; and vector, error code, CR2, RIP."""

# SDM vol. 3: 3.5.1 (a pseudo-descriptor), 6.14.1 (a gate), 7.2.3 and 7.7 (the TSS).
_TSS_SEGMENT = Struct(
    "limit" / Int16ul, "base" / Int24ul, "rights" / Int16ul, "base_24" / Int8ul,
    "base_32" / Int32ul, Padding(4),
)  # fmt: skip
_GATE = Struct(
    "offset" / Int16ul, "selector" / Int16ul, "ist" / Int8ul, "rights" / Int8ul,
    "offset_16" / Int16ul, "offset_32" / Int32ul, Padding(4),
)  # fmt: skip
_TSS = Struct(
    Padding(4), "rsp0" / Int64ul, Padding(24), "ist1" / Int64ul, Padding(58), "io_map" / Int16ul
)
_REGISTER = Struct("limit" / Int16ul, "base" / Int64ul)
_GDT = Struct(
    Padding(8), "kernel_code" / Int64ul, "kernel_data" / Int64ul, "tss" / _TSS_SEGMENT,
    "user_data" / Int64ul, "user_code" / Int64ul,
)  # fmt: skip
_DESCRIPTORS = Struct(
    "gdt" / Padded(0x80, _GDT),
    "tss" / Padded(0x80, _TSS),
    "gdtr" / Padded(0x10, _REGISTER),
    "idtr" / Padded(0x2F0, _REGISTER),
    "idt" / _GATE[32],
)


def descriptors(base: int) -> bytes:
    """GDT, TSS, GDTR, IDTR and IDT, as they lie from `GDT` on; `base` is where the runner runs."""
    tss, top = base + TSS, base + IST1
    segments = {  # flat and 64-bit (SDM vol. 3, 3.4.5), at the selectors of runner.s
        "kernel_code": 0x00AF9B00_0000FFFF,
        "kernel_data": 0x00CF9300_0000FFFF,
        "user_data": 0x00CFF300_0000FFFF,
        "user_code": 0x00AFFB00_0000FFFF,
        "tss": {
            "limit": _TSS.sizeof() - 1,
            "base": tss & 0xFF_FFFF,
            "rights": 0x89,
            "base_24": tss >> 24 & 0xFF,
            "base_32": tss >> 32,
        },
    }
    built: bytes = _DESCRIPTORS.build({
        "gdt": segments,
        "tss": {"rsp0": top, "ist1": top, "io_map": _TSS.sizeof()},  # no I/O bitmap
        "gdtr": {"limit": _GDT.sizeof() - 1, "base": base + GDT},
        "idtr": {"limit": 32 * _GATE.sizeof() - 1, "base": base + IDT},
        "idt": [_gate(base + HANDLERS + HANDLER_SIZE * vector) for vector in range(32)],
    })  # fmt: skip
    return built


def _gate(handler: int) -> dict[str, int]:
    """An interrupt gate of DPL 3 with IST1."""
    return {
        "offset": handler & 0xFFFF,
        "selector": 0x08,
        "ist": 1,
        "rights": 0xEE,
        "offset_16": handler >> 16 & 0xFFFF,
        "offset_32": handler >> 32,
    }
