"""The vector table at VBAR_EL1 (Arm ARM, DDI 0487, D1.3.1): which slots faults come by, and where
behind a slot the kernel itself parts system calls from faults."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from breenix_gdbagent.aarch64.registers import exception_level
from breenix_gdbagent.arch.vectors import Read, VectorTable

SLOT = 0x80
SP0_SYNC, SP0_SERROR = 0, 3
EL1_SYNC, EL1_SERROR = 4, 7
EL0_SYNC, EL0_SERROR = 8, 11
FAULTS = (EL1_SYNC, EL0_SYNC, EL1_SERROR, EL0_SERROR, SP0_SYNC, SP0_SERROR)
"""Slots that are watched. IRQ and FIQ are ordinary events."""

SVC_CLASSES = (0x11, 0x15)
"""EC of SVC in AArch32 and AArch64."""
STEP_CLASSES = (0x30, 0x31, 0x32, 0x33, 0x34, 0x35)
"""EC of hardware breakpoints, single steps and watchpoints: a debugger inside the guest."""

_MSR_VBAR, _MSR_MASK = 0xD518C000, 0xFFFFFFE0
_MRS_ESR = 0xD5385200
_LSR_26, _LSR_MASK = 0xD35AFC00, 0xFFFFFC00
_UBFX_EC, _UBFX_EC_W = 0xD35A7C00, 0x531A7C00
_CMP_IMMEDIATE, _CMP_MASK = 0xF100001F, 0x7FC0001F
_EQ, _NE = 0, 1
LOOKED_AT = 12
"""Instructions that are followed from a slot on."""


class Vectors(VectorTable):
    """See `VectorTable`."""

    register = "vbar_el1"

    def sites(self, code: bytes) -> Iterator[int]:
        for at in range(0, len(code) - 3, 4):
            if int.from_bytes(code[at : at + 4], "little") & _MSR_MASK == _MSR_VBAR:
                yield at

    def places(self, base: int, read: Read) -> Mapping[int, tuple[int, ...]]:
        out: dict[int, tuple[int, ...]] = {}
        for slot in FAULTS:
            at = base + slot * SLOT
            if slot == EL0_SYNC:
                at = behind_system_calls(at, read) or at
            out[at] = (*out.get(at, ()), slot)
        return out

    def fault_at(self, registers: Mapping[str, int], vectors: tuple[int, ...]) -> int | None:
        syndrome, saved = registers.get("esr_el1"), registers.get("spsr_el1")
        if syndrome is None or saved is None:
            return vectors[0]
        if vectors[0] in (EL1_SERROR, EL0_SERROR, SP0_SERROR):
            return vectors[0]
        if syndrome >> 26 & 0x3F in (*SVC_CLASSES, *STEP_CLASSES):
            return None
        from_program = exception_level(saved) == 0
        # Where the ways of EL0 and EL1 join, what came from EL1 was caught at its own slot.
        return vectors[0] if (vectors[0] == EL0_SYNC) == from_program else None


def behind_system_calls(slot: int, read: Read) -> int | None:
    """Where the code from `slot` on goes with what is no SVC, if it looks at ESR_EL1.EC before it
    does anything else (``mrs xN, esr_el1; lsr xM, xN, #26; cmp xM, #0x15; b.ne``). None where it
    saves registers first, or does it in another way."""
    at = slot
    syndrome = exception_class = compared = None
    for _ in range(LOOKED_AT):
        raw = read(at, 4)
        if raw is None or len(raw) < 4:
            return None
        (word,) = struct.unpack("<I", raw)
        register = word & 31
        if word & 0xFC000000 == 0x14000000:
            at += _signed(word, 26) * 4
            continue
        if word & ~31 == _MRS_ESR:
            syndrome = register
        elif (extracted := _class_of(word)) is not None and extracted == syndrome:
            exception_class = register
        elif word & _CMP_MASK == _CMP_IMMEDIATE & _CMP_MASK and (word >> 5 & 31) == exception_class:
            compared = word >> 10 & 0xFFF
        elif word & 0xFF000010 == 0x54000000 and compared in SVC_CLASSES and register in (_EQ, _NE):
            target = at + _signed(word >> 5, 19) * 4
            return target if register == _NE else at + 4
        elif not _is_harmless(word):
            return None
        at += 4
    return None


def _class_of(word: int) -> int | None:
    """The register whose bits 31:26 the instruction takes out, None for another instruction."""
    for pattern in (_LSR_26, _UBFX_EC, _UBFX_EC_W):
        if word & _LSR_MASK == pattern:
            return word >> 5 & 31
    return None


def _is_harmless(word: int) -> bool:
    """Whether an instruction changes nothing that the interrupted code had: NOP, BTI, a barrier."""
    return word & 0xFFFFF01F == 0xD503201F or word & 0xFFFFF000 == 0xD5033000


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
