"""`AARCH64`: the architecture of this room, as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from breenix_gdbagent.aarch64 import paging
from breenix_gdbagent.aarch64.pstate import mode as pstate_mode
from breenix_gdbagent.aarch64.pstate import words
from breenix_gdbagent.aarch64.registers import (
    GENERAL,
    KEPT,
    NAME,
    PSTATE_I,
    SCTLR_M,
    SCTLR_NAMES,
    SYSTEM,
    UNWIND,
    exception_level,
)
from breenix_gdbagent.aarch64.syndrome import PERMISSION, SIZE, Syndrome
from breenix_gdbagent.aarch64.taken import taken
from breenix_gdbagent.aarch64.translation import LAST, Translation, half
from breenix_gdbagent.aarch64.vectors import Vectors
from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.arch.cpu import (
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
from breenix_gdbagent.arch.spaces import SpaceReader, Stretch
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.arch.taken import Taken
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.memory import PhysicalMemory
from breenix_gdbagent.memory.elf import Note
from breenix_gdbagent.memory.elf_header import EM_AARCH64

SLOT = 0x80
"""Bytes of one vector."""
_KINDS = ("synchronous exception", "IRQ", "FIQ", "SError")
_FROM = ("EL1 with SP_EL0", "EL1", "EL0", "EL0 in AArch32")
VECTORS = {
    4 * group + kind: f"{what} from {where}"
    for group, where in enumerate(_FROM)
    for kind, what in enumerate(_KINDS)
}
"""Slot of the table at VBAR_EL1 -> what comes by it (D1.3.1, table D1-6)."""
_OTHERS = (
    "far_el1", "elr_el1", "ttbr0_el1", "ttbr1_el1", "tcr_el1", "mair_el1", "vbar_el1", "sp_el0",
    "sp_el1", "tpidr_el1", "tpidr_el0", "contextidr_el1", "par_el1",
)  # fmt: skip
_TCR = 16 | 16 << 16 | 2 << 30 | 5 << 32
"""4 KiB tables and 48 bits on both sides, in TCR_EL1's words."""
_PLAIN = Translation(half(_TCR, 0, None), half(_TCR, 1, None), PhysAddr(0), *4 * (False,))


class ArmPaging(Paging):
    """Tables of VMSAv8-64. `mode` is what sizes and indexes are counted by; that of 4 KiB and 48
    bits where none is known, and then nothing is translated."""

    levels: Mapping[int, str] = {n: f"level {n} table" for n in range(-1, LAST + 1)}

    def __init__(self, mode: Translation = _PLAIN) -> None:
        self.mode = mode

    def bound(self, mode: Mode | None) -> Paging:
        return ArmPaging(mode) if isinstance(mode, Translation) else self

    def top(self, mode: Mode | None) -> int:
        return _known(mode, self.mode).low.start

    def walk(self, tables: Tables, root: int, va: int, mode: Mode | None) -> Walk:
        return paging.walk(tables, root, va, _known(mode, self.mode))

    def walker(self, tables: Tables, mode: Mode | None) -> Callable[[int, int], Walk]:
        return partial(paging.walk, tables, mode=_known(mode, self.mode))

    def span(self, level: int) -> int:
        return 1 << self.mode.low.shift(level)

    def index_at(self, va: int, level: int) -> int:
        return self.mode.half_of(va).index_of(va, level)

    def slot_start(self, slot: int, top: int) -> VirtAddr:
        return VirtAddr(slot << self.mode.low.shift(top))

    def memory(self, tables: Tables, root: int, mode: Mode | None) -> VirtualReader:
        return paging.VirtualMemory(tables, root, _known(mode, self.mode))

    def spaces(self, tables: Tables, mode: Mode | None) -> SpaceReader:
        from breenix_gdbagent.aarch64.mapped_space import Spaces

        return Spaces(tables, _known(mode, self.mode))

    def stretches(self, tables: Tables, root: int, mode: Mode | None) -> list[Stretch]:
        from breenix_gdbagent.aarch64.leaves import mapped_runs

        return mapped_runs(tables, root, _known(mode, self.mode))

    def roots(
        self, memory: PhysicalMemory, reference: PhysAddr, slots: Sequence[int]
    ) -> Iterable[CandidateRoot]:
        """None: what a program maps is in no way like what another does."""
        return ()


def _known(mode: Mode | None, instead: Translation) -> Translation:
    return mode if isinstance(mode, Translation) else instead


class Aarch64(Arch):
    """See `Arch`."""

    name = NAME
    elf_machine = EM_AARCH64
    qemu_names = ("aarch64",)
    stub_names = ("aarch64",)
    system_registers = SYSTEM
    longest = 4
    calls = ("bl", "blr", "blraa", "blrab", "blraaz", "blrabz")
    halts = ("wfi", "wfe")
    vector_table = Vectors()
    names = Names("pc", "sp", "x29", "cpsr", GENERAL, UNWIND, KEPT, "x30")
    shown = ShownRegisters(
        (*GENERAL, "sp", "pc"), ("cpsr", "spsr_el1", "esr_el1", "sctlr_el1"), _OTHERS
    )
    paging = ArmPaging()
    vectors = VECTORS

    def mode(self, cpu: Cpu) -> Translation | None:
        return Translation.of(cpu)

    def root(self, cpu: Cpu) -> PhysAddr | None:
        ttbr, tcr = cpu.get("ttbr0_el1"), cpu.get("tcr_el1")
        if ttbr is None or tcr is None:
            return None
        return half(tcr, 0, cpu.get("id_aa64mmfr0_el1")).table_of(ttbr)

    def ring(self, cpu: Cpu) -> int | None:
        """3 at EL0, else 0: the kernel's, or a level above it."""
        state = cpu.get("cpsr")
        return None if state is None else 3 if exception_level(state) == 0 else 0

    def interrupts_off(self, cpu: Cpu) -> bool | None:
        state = cpu.get("cpsr")
        return None if state is None else bool(state & PSTATE_I) and exception_level(state) > 0

    def interrupted_ring(self, registers: Mapping[str, int]) -> int | None:
        saved = registers.get("spsr_el1")
        return None if saved is None else 3 if exception_level(saved) == 0 else 0

    def privilege(self, cpu: Cpu) -> str:
        state = cpu.get("cpsr")
        return "an unknown exception level" if state is None else pstate_mode(state)

    def bits(self, register: str, value: int) -> tuple[str, ...]:
        if register == "esr_el1":
            lines = Syndrome(value).lines
            return tuple(f"{field} {says}" for field, says in lines if field != "IL")
        if register == "sctlr_el1":
            return tuple(name for bit, name in SCTLR_NAMES.items() if value >> bit & 1)
        return tuple(words(value).split())

    def no_translation(self, cpu: Cpu) -> str:
        sctlr = cpu.get("sctlr_el1")
        if sctlr is None:
            return f"the system registers of CPU {cpu.index} are not known"
        off = "has its MMU off" if not sctlr & SCTLR_M else "translates in a way that is not walked"
        return f"CPU {cpu.index} {off} (SCTLR_EL1 {sctlr:#x}), in {self.privilege(cpu)}: early boot"

    def taken(
        self, cpu: Cpu, vector: int, walk: Callable[[int, int], Walk], read: ReadVirtual
    ) -> Taken:
        return taken(cpu, vector, walk, read)

    def trap(self, cpu: Cpu, vector: int, error_code: int | None, walk: Walk) -> Trap | None:
        """`error_code` is ESR_EL1, as the CPU has it where none is given."""
        told = cpu.get("esr_el1") if error_code is None else error_code
        fault = None if told is None else Syndrome(told).fault
        if told is None or fault is None or vector % 4:
            return None
        syndrome = Syndrome(told)
        kind = {PERMISSION: "permission", SIZE: "malformed"}.get(fault.kind, "translation")
        return Trap(kind, syndrome.access, walk.va, fault.level, syndrome.from_lower)

    def disassemble(
        self, code: bytes, address: int, most: int = 0, *, skip_data: bool = False
    ) -> Iterator[Instruction]:
        from breenix_gdbagent.aarch64.disassembler import disassemble

        return disassemble(code, address, most, skip_data=skip_data)

    def core_notes(self, cpu: Cpu) -> tuple[Note, ...]:
        from breenix_gdbagent.aarch64.core_notes import prstatus_note

        return (prstatus_note(cpu),)

    def cpus_of_notes(self, notes: Iterable[Note], *, long_mode: bool | None) -> tuple[Cpu, ...]:
        from breenix_gdbagent.aarch64.core_notes import cpus_of_notes

        return cpus_of_notes(notes)


AARCH64 = register(Aarch64())
