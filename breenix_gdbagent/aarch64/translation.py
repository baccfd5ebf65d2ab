"""`Translation`: how a CPU translates addresses at EL1 and EL0, out of its control registers.

Source: Arm ARM, D8.2 (granules, sizes of input and output addresses) and TCR_EL1.
"""

from __future__ import annotations

from typing import NamedTuple

from breenix_gdbagent.aarch64.registers import (
    PSTATE_PAN,
    SCTLR_M,
    SCTLR_WXN,
    TCR_DS,
    TCR_EPD,
    TCR_HA,
    TCR_HD,
    TCR_HPD,
    TCR_TBI,
    TTBR_BADDR,
)
from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.arch.cpu import Cpu

GRANULES = {0: {0: 12, 1: 16, 2: 14}, 1: {1: 14, 2: 12, 3: 16}}
"""TG0 and TG1, which count differently: field -> bits of the granule."""
OUTPUT_BITS = (32, 36, 40, 42, 44, 48, 52)
"""By IPS, and by ID_AA64MMFR0_EL1.PARange."""
LAST = 3
"""The last level of tables."""


class Half(NamedTuple):
    """What TTBR0 (`which` 0) or TTBR1 translates: `bits` of address by tables of `granule` bits,
    from level `start` on. `disabled`: TCR_EL1.EPDn; `ignores_top`: TBIn; `flat`: HPDn, rights of
    tables do not count. `output_bits`: width of the addresses that entries may name. `ds`: LPA2's
    layout of entries. Not `valid`: TnSZ names a width that the CPU has not, and nothing is mapped.
    """

    which: int
    granule: int
    bits: int
    start: int
    disabled: bool
    ignores_top: bool
    flat: bool
    output_bits: int
    ds: bool
    valid: bool = True

    @property
    def stride(self) -> int:
        """Bits of address that one level translates."""
        return self.granule - 3

    def shift(self, level: int) -> int:
        """An entry of a table of `level` covers ``1 << shift`` bytes."""
        return self.granule + self.stride * (LAST - level)

    def entries(self, level: int) -> int:
        """Entries of a table of `level`; the first has as many as the input address asks for."""
        bits = self.bits - self.shift(level) if level == self.start else self.stride
        return 1 << bits

    def index_of(self, va: int, level: int) -> int:
        """Which entry of a table of `level` translates `va`."""
        return va >> self.shift(level) & self.entries(level) - 1

    @property
    def base(self) -> int:
        """The first address it translates."""
        return (1 << 64) - (1 << self.bits) if self.which else 0

    def holds(self, va: int) -> bool:
        """Whether `va` is one of its addresses: the bits above them all clear, or all set."""
        top = 56 if self.ignores_top else 64
        above = (va & (1 << top) - 1) >> self.bits
        return above == ((1 << top - self.bits) - 1 if self.which else 0)

    def table_of(self, ttbr: int) -> PhysAddr:
        """The first table, as a TTBR names it."""
        address = ttbr & TTBR_BADDR
        size = max(self.entries(self.start) * 8, 64)
        high = (address >> 2 & 0xF) << 48 if self.output_bits > 48 else 0
        return PhysAddr(address & -size & (1 << 48) - 1 | high)

    def aligned(self, root: int) -> PhysAddr:
        """The first table, by its address and whatever of a TTBR is left with it."""
        size = max(self.entries(self.start) * 8, 64)
        return PhysAddr(root & (1 << max(self.output_bits, 48)) - 1 & -size)

    def block_allowed(self, level: int) -> bool:
        """Whether an entry of `level` may map a block (table D8-20): of 1 GiB and 2 MiB with 4 KiB
        tables, 32 MiB with 16 KiB, 512 MiB with 64 KiB; one level further up with wider addresses.
        """
        first = {12: 1, 14: 2, 16: 2}[self.granule]
        wide = self.ds if self.granule != 16 else self.output_bits > 48
        return first - wide <= level < LAST


class Translation(NamedTuple):
    """`low` is by TTBR0_EL1, `high` by TTBR1_EL1, whose table is `kernel_root`. `hardware_access`,
    `hardware_dirty`: TCR_EL1.HA and HD. `wxn`, `pan`: what is writable is not executable; EL1 does
    not touch what EL0 may."""

    low: Half
    high: Half
    kernel_root: PhysAddr
    wxn: bool
    pan: bool
    hardware_access: bool
    hardware_dirty: bool

    @classmethod
    def of(cls, cpu: Cpu) -> Translation | None:
        """As the CPU's registers say; None while its MMU is off or they are not known."""
        sctlr, tcr, ttbr1 = (cpu.get(n) for n in ("sctlr_el1", "tcr_el1", "ttbr1_el1"))
        if sctlr is None or tcr is None or ttbr1 is None or not sctlr & SCTLR_M:
            return None
        features = cpu.get("id_aa64mmfr0_el1")
        low, high = half(tcr, 0, features), half(tcr, 1, features)
        return cls(
            low=low,
            high=high,
            kernel_root=high.table_of(ttbr1),
            wxn=bool(sctlr & SCTLR_WXN),
            pan=bool((cpu.get("cpsr") or 0) & PSTATE_PAN),
            hardware_access=bool(tcr & TCR_HA),
            hardware_dirty=bool(tcr & TCR_HA and tcr & TCR_HD),
        )

    @property
    def levels(self) -> int:
        """Levels of tables of the lower half."""
        return LAST + 1 - self.low.start

    @property
    def nxe(self) -> bool:
        """Entries may always forbid execution."""
        return True

    def half_of(self, va: int) -> Half:
        """By bit 55, whatever lies above it (D8.2.3)."""
        return self.high if va >> 55 & 1 else self.low


def half(tcr: int, which: int, features: int | None) -> Half:
    """One half by TCR_EL1. `features` is ID_AA64MMFR0_EL1: what the CPU cannot do does not count;
    where it is not known the control register is believed."""
    granule = GRANULES[which].get(tcr >> (30 if which else 14) & 3, 12)
    size = tcr >> (16 if which else 0) & 0x3F
    physical = tcr >> 32 & 7 if features is None else min(tcr >> 32 & 7, features & 0xF)
    output = OUTPUT_BITS[min(physical, 6)]
    ds = bool(tcr & TCR_DS) and granule != 16
    if granule != 16 and not ds:
        output = min(output, 48)
    wide = granule == 16 or ds
    bits = 64 - size
    most = 52 if wide else 48
    valid = 16 <= bits <= most
    bits = min(max(bits, 16), most)
    start = LAST + 1 - (bits - 4) // (granule - 3)
    return Half(
        which=which,
        granule=granule,
        bits=bits,
        start=start,
        disabled=bool(tcr & TCR_EPD[which]),
        ignores_top=bool(tcr & TCR_TBI[which]),
        flat=bool(tcr & TCR_HPD[which]),
        output_bits=output,
        ds=ds,
        valid=valid,
    )
