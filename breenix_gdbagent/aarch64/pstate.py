"""SPSR_EL1, and CPSR as the gdbstub has it, in words (Arm ARM, C5.2.19)."""

from __future__ import annotations

from breenix_gdbagent.aarch64.registers import PSTATE_NRW, PSTATE_SP, exception_level

_FLAGS = (
    (31, "N"), (30, "Z"), (29, "C"), (28, "V"), (25, "TCO"), (24, "DIT"), (23, "UAO"),
    (22, "PAN"), (21, "SS"), (20, "IL"), (12, "SSBS"), (9, "D"), (8, "A"), (7, "I"), (6, "F"),
)  # fmt: skip
_VALID_MODES = (0b0000, 0b0100, 0b0101, 0b1000, 0b1001, 0b1100, 0b1101)


def flags(value: int) -> tuple[str, ...]:
    """Names of the bits set, the highest first; D, A, I and F mask what they are named for."""
    return tuple(name for bit, name in _FLAGS if value >> bit & 1)


def mode(value: int) -> str:
    """``EL1h``: the exception level, and ``h`` for its own stack pointer, ``t`` for SP_EL0."""
    if value & PSTATE_NRW:
        return f"AArch32 mode {value & 0x1F:#x}"
    return f"EL{exception_level(value)}{'h' if value & PSTATE_SP else 't'}"


def words(value: int) -> str:
    """``EL1h D A I F``."""
    return " ".join((mode(value), *flags(value)))


def illegal_return(value: int, level: int = 1) -> str:
    """Why an ERET at `level` with this SPSR is illegal (D1.4.4), "" where it is not."""
    if value & PSTATE_NRW:
        return "" if value & 0xF == 0 else "it names a mode of AArch32 other than User"
    if value & 0xF not in _VALID_MODES:
        return f"it names mode {value & 0xF:#x}, which is none"
    if exception_level(value) > level:
        return f"it would return to EL{exception_level(value)} from EL{level}"
    return ""
