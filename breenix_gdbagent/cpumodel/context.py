"""What an exception interrupts: the program state the CPU had, and what it may touch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from breenix_gdbagent.addresses import PAGE, PhysAddr, canonical, hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.control import PagingMode
from breenix_gdbagent.x86.exceptions import PF_PRESENT, PF_RESERVED, PF_WRITE, VECTORS
from breenix_gdbagent.x86.paging import VirtualMemory, walk
from breenix_gdbagent.x86.verdict import Access, Processor, Verdict, verdict

Origin = Literal["exception", "interrupt", "software"]
AccessKind = Literal["read", "write", "fetch"]

DE, NMI, UD, NM, DF, TS, NP, SS, GP, PF, MF, AC, XM = 0, 2, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 19
RFLAGS_IF, RFLAGS_NT, RFLAGS_AC = 1 << 9, 1 << 14, 1 << 18


@dataclass(frozen=True, slots=True)
class Raised:
    """One event that the CPU has to deliver. `vector` -1 is an interrupt whose vector is not known.

    `address` is what CR2 becomes for #PF, for others the address that is to blame, if any.
    `error_code` None: the event pushes none; `also` are codes that emulators push instead. `why` is
    a clause that says what raised it. `own`: the access was the CPU's own, to a descriptor table or
    to the TSS, on behalf of the instruction.
    """

    vector: int
    error_code: int | None = None
    address: int | None = None
    why: str = ""
    origin: Origin = "exception"
    also: tuple[int, ...] = ()
    own: bool = False

    @property
    def text(self) -> str:
        """As a chain has it: ``#PF e=0x2 CR2=0xffffc90000022ff8``."""
        if self.origin == "software":
            return f"int {self.vector:#x}"
        if self.origin == "interrupt":
            if self.vector == NMI:
                return vector_name(NMI)
            return "interrupt" if self.vector < 0 else f"interrupt {self.vector:#x}"
        parts = [vector_name(self.vector)]
        if self.error_code is not None:
            parts.append(f"e={hex64(self.error_code)}")
        if self.vector == PF and self.address is not None:
            parts.append(f"CR2={hex64(self.address)}")
        return " ".join(parts)


def refusal(fault: Raised) -> str:
    """Why a #PF of the CPU's own access came, after the name of the place: ``is not mapped``."""
    code = fault.error_code or 0
    if code & PF_RESERVED:
        return "is reached by an entry with reserved bits set"
    if not code & PF_PRESENT:
        return "is not mapped"
    return "cannot be written" if code & PF_WRITE else "cannot be read by ring 0"


def vector_name(vector: int) -> str:
    """``#PF`` where the manual has a name, else ``vector 33``."""
    return VECTORS[vector].mnemonic if vector in VECTORS else f"vector {vector}"


@dataclass(frozen=True, slots=True)
class Context:
    """The interrupted program: registers as they were, the tables it ran on, and its privilege.

    `registers` has what of the general registers is still known, and fs_base, gs_base, cr0, cr4,
    efer where they are. `ac_counts` is a deviation of QEMU's TCG: in rings 0 to 2 it lets RFLAGS.AC
    count for the CPU's own accesses too (target/i386/cpu.h, cpu_mmu_index_kernel). `served` is the
    vector of the one interrupt that the PIC has in service.
    """

    tables: Tables
    cpu: Cpu
    root: PhysAddr
    mode: PagingMode
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int
    registers: Mapping[str, int]
    ac_counts: bool = False
    served: int | None = None

    @property
    def cpl(self) -> int:
        return self.cs & 3

    def read(self, va: int, length: int) -> bytes:
        """Bytes under this context's root. Raises `ReadError`."""
        return VirtualMemory(self.tables, self.root, self.mode.levels).read(va, length)

    def page_fault(
        self, va: int, size: int, access: AccessKind, *, user: bool | None = None
    ) -> Raised | None:
        """The #PF that an access of `size` bytes at canonical `va` raises by the tables, or None.

        `user` as for `verdict`. Raises `ReadError` where the tables in the way are not to be had.
        """
        for at in _pages(va, size):
            found = self.verdict(at, access, user=user)
            if not found.allowed:
                return Raised(PF, found.error_code, at, also=found.also)
        return None

    def verdict(self, va: int, access: AccessKind, *, user: bool | None = None) -> Verdict:
        """What one access at canonical `va` comes to by the tables as they are.

        `user` None: with the privilege of this context; False: the CPU's own access to a
        descriptor table or a stack, an implicit supervisor access (SDM vol. 3, 4.6.1), for which
        AC does not matter. Raises `ReadError` where the tables in the way are not to be had.
        """
        implicit = user is False and not (self.ac_counts and self.cpl < 3)
        cpl = self.cpl if user is None else 3 if user else 0
        asked = Access(access, cpl, implicit, bool(self.rflags & RFLAGS_AC))
        # Without NXE: reserved bits are the verdict's business.
        way = walk(self.tables, self.root, va, self.mode.levels)
        found = verdict(way, asked, self.mode, Processor(width=self.cpu.phys_bits))
        if found.allowed is None:
            raise ReadError(f"the tables that lead to {hex64(va)} cannot be read")
        return found

    def under(self, root: int) -> Context:
        """The same program on other tables."""
        return replace(self, root=PhysAddr(root))

    def canonical(self, va: int) -> bool:
        return canonical(va, self.mode.levels)


def _pages(va: int, size: int) -> Iterator[int]:
    """`va`, and the first byte of each further page that [va, va + size) touches."""
    yield va
    page = (va & -PAGE) + PAGE
    while page < va + size:
        yield page & (1 << 64) - 1
        page += PAGE


def context_of_cpu(tables: Tables, cpu: Cpu) -> Context:
    """The CPU as it stands: after a triple fault that is what the first fault interrupted.

    Raises `ReadError` where paging is off or a register is missing.
    """
    mode, root = PagingMode.of(cpu), cpu.root
    missing = [n for n in ("rip", "rsp", "cs", "ss", "eflags") if cpu.get(n) is None]
    if mode is None or root is None or missing:
        raise ReadError(
            f"CPU {cpu.index} is not in 64-bit mode with paging on"
            if not missing
            else f"{', '.join(missing)} of CPU {cpu.index} are not known"
        )
    r = cpu.registers
    return Context(
        tables, cpu, root, mode, r["rip"], r["cs"], r["eflags"], r["rsp"], r["ss"], dict(r)
    )
