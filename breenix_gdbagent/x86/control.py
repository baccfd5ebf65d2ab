"""The control registers of x86-64, and the paging mode that they select."""

from __future__ import annotations

from typing import NamedTuple

from breenix_gdbagent.arch.cpu import Cpu

LONGEST_INSTRUCTION = 15
"""Bytes (SDM vol. 2, 2.3.11)."""

CR0_PG = 1 << 31
CR0_WP = 1 << 16
CR0_PE = 1 << 0
RESET_CR0 = 0x6000_0010
RFLAGS_IF = 1 << 9
CR4_PAE = 1 << 5
CR4_LA57 = 1 << 12
CR4_SMEP = 1 << 20
CR4_SMAP = 1 << 21
CR4_PKE = 1 << 22
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11
CR0_ALIKE = 1 << 5 | CR0_WP | 1 << 18
"""NE, WP, AM."""
CR4_ALIKE = sum(1 << bit for bit in (5, 6, 7, 9, 10, 11, 12, 16, 17, 18, 20, 21, 22, 23))
"""All that choose how the CPU translates and which instructions it has; not those that a kernel
changes for a thread (TSD, PCE) or a guest (VMXE), nor PSE, which long mode ignores."""
EFER_ALIKE = 1 << 0 | 1 << 8 | EFER_NXE
"""SCE, LME, NXE."""
CR3_ADDRESS = 0x000F_FFFF_FFFF_F000


class PagingMode(NamedTuple):
    """What the walk and the fault verdict take from the control registers.

    `nxe` is None when EFER is not known (QEMU's own cores do not carry it).
    """

    levels: int
    nxe: bool | None
    wp: bool
    smep: bool
    smap: bool
    pke: bool

    @classmethod
    def of(cls, cpu: Cpu) -> PagingMode | None:
        """From CR0, CR4 and EFER (SDM 4.1.1); None unless long-mode paging is on."""
        cr0, cr4, efer = cpu.get("cr0"), cpu.get("cr4"), cpu.get("efer")
        if cr0 is None or cr4 is None or not cr0 & CR0_PG or not cr4 & CR4_PAE:
            return None
        if not (cpu.long_mode is not False if efer is None else efer & EFER_LMA):
            return None
        return cls(
            levels=5 if cr4 & CR4_LA57 else 4,
            nxe=None if efer is None else bool(efer & EFER_NXE),
            wp=bool(cr0 & CR0_WP),
            smep=bool(cr4 & CR4_SMEP),
            smap=bool(cr4 & CR4_SMAP),
            pke=bool(cr4 & CR4_PKE),
        )
