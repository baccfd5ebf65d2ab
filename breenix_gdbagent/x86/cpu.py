"""The registers of one stopped CPU, and the paging mode they select."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.words import privilege

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
CR3_ADDRESS = 0x000F_FFFF_FFFF_F000


class DescriptorTable(NamedTuple):
    """GDTR or IDTR: linear base and limit (bytes minus one); limit None when not known."""

    base: VirtAddr
    limit: int | None


class SystemSegment(NamedTuple):
    """TR or LDTR: selector, and the hidden base and limit."""

    selector: int
    base: VirtAddr
    limit: int | None


class Cpu(NamedTuple):
    """One vCPU. `registers` is by gdb's names (rax, rip, eflags, cs, fs_base, gs_base, k_gs_base,
    cr0, cr2, cr3, cr4, efer); a name that is absent was not to be had, and is never 0 for us.

    `long_mode` is what else than EFER.LMA tells of it (an ELF core of QEMU's has no EFER, but its
    machine is x86-64 only in long mode); None where nothing does. `phys_bits` is the width of
    physical addresses (CPUID 80000008H), None where it is not known. `code_64`: the code segment in
    CS has the L bit; without it long mode runs 32-bit code (compatibility mode, SDM vol. 3, 3.4.5).
    """

    index: int  # type: ignore[assignment]  # hides the search of a tuple
    registers: Mapping[str, int]
    gdtr: DescriptorTable | None = None
    idtr: DescriptorTable | None = None
    tr: SystemSegment | None = None
    ldtr: SystemSegment | None = None
    halted: bool | None = None
    long_mode: bool | None = None
    phys_bits: int | None = None
    code_64: bool | None = None

    def get(self, name: str) -> int | None:
        """A register by gdb's name, None when not known."""
        return self.registers.get(name)

    @property
    def rip(self) -> VirtAddr:
        """RIP. Raises `ReadError` when it is not known."""
        return VirtAddr(self._known("rip"))

    @property
    def rsp(self) -> VirtAddr:
        """RSP. Raises `ReadError` when it is not known."""
        return VirtAddr(self._known("rsp"))

    def _known(self, name: str) -> int:
        value = self.registers.get(name)
        if value is None:
            raise ReadError(f"{name.upper()} of CPU {self.index} is not known")
        return value

    @property
    def cr3(self) -> int | None:
        """CR3 as it is, PCID or flag bits included; None when not known."""
        return self.get("cr3")

    @property
    def cpl(self) -> int | None:
        """Current privilege level: RPL of CS, 0 in real mode, where CS is a paragraph."""
        cs, cr0 = self.get("cs"), self.get("cr0")
        if cr0 is not None and not cr0 & CR0_PE:
            return 0
        return None if cs is None else cs & 3

    @property
    def privilege(self) -> str:
        """`privilege` of this CPU."""
        return privilege(self.get("cr0"), self.cpl)

    @property
    def dead(self) -> bool:
        """Whether it halts in ring 0 with interrupts off: nothing but a reset, an INIT or an NMI
        wakes it (SDM volume 2, HLT)."""
        flags = self.get("eflags")
        off = flags is not None and not flags & RFLAGS_IF
        return bool(self.halted) and off and self.cpl == 0

    @property
    def at_reset(self) -> bool:
        """Whether it is as a reset leaves it, before its first instruction (SDM volume 3, table
        10-1): real mode, caches off, at the reset vector FFFF_FFF0, which is F000:FFF0."""
        asked = ("cr0", "cs", "rip", "efer")
        return [self.get(name) for name in asked] == [RESET_CR0, 0xF000, 0xFFF0, 0]

    @property
    def idt_never_loaded(self) -> bool:
        """Whether IDTR is as a reset or a loader leaves it: base 0, and the limit of a reset, of
        the real-mode table or none (SDM volume 3, table 10-1)."""
        table = self.idtr
        return table is not None and not table.base and table.limit in (0, 0x3FF, 0xFFFF, None)

    @property
    def root(self) -> PhysAddr | None:
        """The physical address of the top table that CR3 names, without PCID or flag bits."""
        cr3 = self.cr3
        return None if cr3 is None else PhysAddr(cr3 & CR3_ADDRESS)

    @property
    def paging(self) -> PagingMode | None:
        """The paging mode, None while paging is off or not in 4- or 5-level form (early boot)."""
        return PagingMode.of(self)


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
