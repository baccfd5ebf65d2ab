"""`X86_64`: the architecture of this room, as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import cast

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.arch.cpu import (
    FIRST,
    Arch,
    CandidateRoot,
    Cpu,
    Instruction,
    Mode,
    Names,
    Paging,
    ReadVirtual,
    ShownRegisters,
    Trap,
    VirtualReader,
    register,
)
from breenix_gdbagent.arch.descriptors import Gate, Tss
from breenix_gdbagent.arch.spaces import SpaceReader, Stretch
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.memory import PhysicalMemory
from breenix_gdbagent.memory.elf import Note
from breenix_gdbagent.memory.elf_header import EM_X86_64
from breenix_gdbagent.x86 import paging
from breenix_gdbagent.x86.bits import flags
from breenix_gdbagent.x86.control import (
    CR0_ALIKE,
    CR0_PE,
    CR0_PG,
    CR3_ADDRESS,
    CR4_ALIKE,
    CR4_PAE,
    EFER_ALIKE,
    LONGEST_INSTRUCTION,
    RESET_CR0,
    RFLAGS_IF,
    PagingMode,
)
from breenix_gdbagent.x86.descriptors import read_gates, read_tss
from breenix_gdbagent.x86.exceptions import PF_FETCH, PF_PRESENT, PF_RESERVED, PF_USER, PF_WRITE
from breenix_gdbagent.x86.vectors import VECTOR_NAMES
from breenix_gdbagent.x86.words import privilege

_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{n}" for n in range(8, 16)))
_UNWIND = (
    "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip",
)  # fmt: skip
"""By their DWARF numbers (System V ABI AMD64, figure 3.36)."""
_SHOWN = (*_GENERAL[:7], "rsp", *_GENERAL[7:])
_PAGE_FAULT = 14


class X86Paging(Paging):
    """4 or 5 levels of 512 entries, see `x86.paging`."""

    levels: Mapping[int, str] = {number: level.name for number, level in paging.LEVEL.items()}

    def walk(self, tables: Tables, root: int, va: int, mode: Mode | None) -> Walk:
        if mode is None:
            return paging.walk(tables, root, va)
        return paging.walk(tables, root, va, mode.levels, mode.nxe)

    def walker(self, tables: Tables, mode: Mode | None) -> Callable[[int, int], Walk]:
        if mode is None:
            return partial(paging.walk, tables)
        return partial(paging.walk, tables, levels=mode.levels, nxe=mode.nxe)

    def span(self, level: int) -> int:
        return paging.span(level)

    def index_at(self, va: int, level: int) -> int:
        return paging.index_at(va, level)

    def slots_of(self, addresses: Iterable[int], top: int) -> list[int]:
        return paging.slots_of(addresses, top)

    def slot_start(self, slot: int, top: int) -> VirtAddr:
        return paging.slot_start(slot, top)

    def memory(self, tables: Tables, root: int, mode: Mode | None) -> VirtualReader:
        return paging.VirtualMemory(tables, root, mode.levels if mode else 4)

    def spaces(self, tables: Tables, mode: Mode | None) -> SpaceReader:
        from breenix_gdbagent.x86.mapped_space import Spaces

        return Spaces(tables) if mode is None else Spaces(tables, mode.levels, mode.nxe)

    def stretches(self, tables: Tables, root: int, mode: Mode | None) -> list[Stretch]:
        from breenix_gdbagent.x86.runs import mapped_runs

        return mapped_runs(tables, root, mode.levels if mode else 4)

    def roots(
        self, memory: PhysicalMemory, reference: PhysAddr, slots: Sequence[int]
    ) -> Iterable[CandidateRoot]:
        from breenix_gdbagent.x86.roots import scan_roots

        given = (tuple(slots),) if slots else ()
        found = scan_roots(memory, reference, *given)
        return cast(Iterable[CandidateRoot], found)


class X86(Arch):
    """See `Arch`."""

    name = FIRST
    elf_machine = EM_X86_64
    qemu_names = ("x86_64", "i386")
    stub_names = ("i386:x86-64", "i386")
    longest = LONGEST_INSTRUCTION
    calls, halts = ("call", "lcall"), ("hlt",)
    descriptor_tables = True
    record_options = ("-global", "apic-common.vapic=off")
    alike: Mapping[str, int] = {"cr0": CR0_ALIKE, "cr4": CR4_ALIKE, "efer": EFER_ALIKE}
    names = Names("rip", "rsp", "rbp", "eflags", _GENERAL, _UNWIND)
    shown = ShownRegisters(
        (*_SHOWN, "rip", "cr3"), ("eflags", "cr0", "cr4", "efer"),
        ("cr2", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base", "k_gs_base"),
    )  # fmt: skip
    paging = X86Paging()
    vectors = VECTOR_NAMES

    def mode(self, cpu: Cpu) -> PagingMode | None:
        return PagingMode.of(cpu)

    def root(self, cpu: Cpu) -> PhysAddr | None:
        cr3 = cpu.get("cr3")
        return None if cr3 is None else PhysAddr(cr3 & CR3_ADDRESS)

    def ring(self, cpu: Cpu) -> int | None:
        """Current privilege level: RPL of CS, 0 in real mode, where CS is a paragraph."""
        cs, cr0 = cpu.get("cs"), cpu.get("cr0")
        if cr0 is not None and not cr0 & CR0_PE:
            return 0
        return None if cs is None else cs & 3

    def privilege(self, cpu: Cpu) -> str:
        return privilege(cpu.get("cr0"), self.ring(cpu))

    def bits(self, register: str, value: int) -> tuple[str, ...]:
        return flags(register, value)

    def no_translation(self, cpu: Cpu) -> str:
        cr0 = cpu.get("cr0")
        if cr0 is None:
            return f"the control registers of CPU {cpu.index} are not known"
        kind = "32-bit paging (PAE)" if (cpu.get("cr4") or 0) & CR4_PAE else "32-bit paging"
        paged = f"under {kind}, " if cr0 & CR0_PG else ""
        return f"CPU {cpu.index} is {paged}in {cpu.privilege}: early boot"

    def interrupts_off(self, cpu: Cpu) -> bool | None:
        flags = cpu.get("eflags")
        return None if flags is None else not flags & RFLAGS_IF and cpu.cpl == 0

    def dead(self, cpu: Cpu) -> bool:
        """Whether it halts in ring 0 with interrupts off: nothing but a reset, an INIT or an NMI
        wakes it (SDM volume 2, HLT)."""
        flags = cpu.get("eflags")
        off = flags is not None and not flags & RFLAGS_IF
        return bool(cpu.halted) and off and cpu.cpl == 0

    def at_reset(self, cpu: Cpu) -> bool:
        """Whether it is as a reset leaves it, before its first instruction (SDM volume 3, table
        10-1): real mode, caches off, at the reset vector FFFF_FFF0, which is F000:FFF0."""
        asked = ("cr0", "cs", "rip", "efer")
        return [cpu.get(name) for name in asked] == [RESET_CR0, 0xF000, 0xFFF0, 0]

    def trap(self, cpu: Cpu, vector: int, error_code: int | None, walk: Walk) -> Trap | None:
        if vector != _PAGE_FAULT or error_code is None:
            return None
        access = "write" if error_code & PF_WRITE else "read"
        access = "fetch" if error_code & PF_FETCH else access
        present = "permission" if error_code & PF_PRESENT else "translation"
        kind = "malformed" if error_code & PF_RESERVED else present
        last = walk.entries[-1].level if walk.entries else None
        return Trap(kind, access, walk.va, walk.stopped_at or last, bool(error_code & PF_USER))

    def gates(self, cpu: Cpu, read: ReadVirtual) -> Mapping[int, Gate]:
        if cpu.idtr is None or cpu.root is None:
            raise ReadError("IDTR is not known")
        return read_gates(read, cpu.idtr)

    def tss(self, cpu: Cpu, read: ReadVirtual) -> Tss | None:
        return read_tss(read, cpu.tr.base) if cpu.tr is not None and cpu.tr.base else None

    def disassemble(
        self, code: bytes, address: int, most: int = 0, *, skip_data: bool = False
    ) -> Iterator[Instruction]:
        from breenix_gdbagent.x86.disassembler import disassemble

        return disassemble(code, address, most, skip_data=skip_data)

    def core_notes(self, cpu: Cpu) -> tuple[Note, ...]:
        from breenix_gdbagent.x86.core_notes import prstatus_note, qemu_note

        return prstatus_note(cpu), qemu_note(cpu)

    def cpus_of_notes(self, notes: Iterable[Note], *, long_mode: bool | None) -> tuple[Cpu, ...]:
        from breenix_gdbagent.x86.core_notes import cpus_of_notes

        return cpus_of_notes(notes, long_mode=long_mode)


X86_64 = register(X86())
