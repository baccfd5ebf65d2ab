"""Registers of a CPU in AArch64 state, by the names that the agent has for them, and their fields.

QEMU's gdbstub tells system registers by names of its own (``system-registers.xml``): some without
``_EL1``. Source of fields: Arm ARM, chapter D19.
"""

from __future__ import annotations

NAME = "aarch64"
GENERAL = tuple(f"x{n}" for n in range(31))
KEPT = tuple(f"x{n}" for n in range(19, 30))
"""What a function gives back as it was (AAPCS64, 6.1.1)."""
UNWIND = (*GENERAL, "sp", "pc")
"""By their DWARF numbers (Arm IHI 0057, 4.1): 0 to 30, 31 is SP; the program counter is none of
them and comes last."""

SYSTEM = {
    "esr_el1": "ESR_EL1",
    "far_el1": "FAR_EL1",
    "elr_el1": "ELR_EL1",
    "spsr_el1": "SPSR_EL1",
    "ttbr0_el1": "TTBR0_EL1",
    "ttbr1_el1": "TTBR1_EL1",
    "tcr_el1": "TCR_EL1",
    "mair_el1": "MAIR_EL1",
    "sctlr_el1": "SCTLR",
    "vbar_el1": "VBAR",
    "sp_el0": "SP_EL0",
    "sp_el1": "SP_EL1",
    "tpidr_el0": "TPIDR_EL0",
    "tpidr_el1": "TPIDR_EL1",
    "contextidr_el1": "CONTEXTIDR_EL1",
    "par_el1": "PAR_EL1",
    "mpidr_el1": "MPIDR_EL1",
    "midr_el1": "MIDR_EL1",
    "id_aa64mmfr0_el1": "ID_AA64MMFR0_EL1",
    "id_aa64mmfr1_el1": "ID_AA64MMFR1_EL1",
    "id_aa64mmfr2_el1": "ID_AA64MMFR2_EL1",
}
"""Our name -> the gdbstub's, of those that are read at each stop."""

SCTLR_M = 1 << 0
SCTLR_WXN = 1 << 19
SCTLR_NAMES = {
    0: "M", 1: "A", 2: "C", 3: "SA", 4: "SA0", 5: "CP15BEN", 7: "ITD", 8: "SED", 9: "UMA",
    11: "EOS", 12: "I", 13: "EnDB", 14: "DZE", 15: "UCT", 16: "nTWI", 18: "nTWE", 19: "WXN",
    22: "EIS", 23: "SPAN", 24: "E0E", 25: "EE", 26: "UCI", 27: "EnDA", 30: "EnIB", 31: "EnIA",
}  # fmt: skip

TCR_EPD = {0: 1 << 7, 1: 1 << 23}
TCR_TBI = {0: 1 << 37, 1: 1 << 38}
TCR_HA = 1 << 39
TCR_HD = 1 << 40
TCR_HPD = {0: 1 << 41, 1: 1 << 42}
TCR_DS = 1 << 59

TTBR_BADDR = (1 << 48) - 2
"""Bits 47:1: the table's address, of which the lowest bits are clear or (52-bit addresses) hold
bits 51:48. Bit 0 is CnP."""

PSTATE_EL_SHIFT = 2
PSTATE_SP = 1 << 0
PSTATE_NRW = 1 << 4
PSTATE_I = 1 << 7
PSTATE_PAN = 1 << 22


def exception_level(pstate: int) -> int:
    """0 to 3, of CPSR as the gdbstub has it or of an SPSR; AArch32's modes count as EL0 where they
    are User (0b10000), else as EL1."""
    if pstate & PSTATE_NRW:
        return 0 if pstate & 0xF == 0 else 1
    return pstate >> PSTATE_EL_SHIFT & 3
