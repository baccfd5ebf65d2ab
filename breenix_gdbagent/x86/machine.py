"""`Machine`: a stopped x86-64 machine by its registers and tables, whichever kernel runs on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PhysAddr, VirtAddr, sign_extended
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.cpu import Cpu, PagingMode
from breenix_gdbagent.x86.descriptors import Gate, Tss, read_gates, read_tss
from breenix_gdbagent.x86.mapped_space import Range, Spaces
from breenix_gdbagent.x86.paging import LEVEL, Tables, VirtualMemory, Walk, slots_of, walk

if TYPE_CHECKING:
    from breenix_gdbagent.memory import PhysicalMemory


class Machine:
    """Page tables, descriptor tables and TSS of one stop, each read once and on demand.

    `cpu` is the CPU that the stop is about. Its properties raise `ReadError` where the stop lacks
    what they need.
    """

    def __init__(self, memory: PhysicalMemory, cpus: Sequence[Cpu], cpu: Cpu) -> None:
        self.cpus = cpus
        self.cpu = cpu
        self.tables = Tables(memory)

    @cached_property
    def mode(self) -> PagingMode | None:
        """Paging mode of the CPU the stop is about, else of any CPU with paging on."""
        modes = (cpu.paging for cpu in (self.cpu, *self.cpus))
        return next((mode for mode in modes if mode is not None), None)

    @property
    def levels(self) -> int:
        return self.mode.levels if self.mode else 4

    @property
    def nxe(self) -> bool | None:
        return self.mode.nxe if self.mode else None

    @cached_property
    def reference_root(self) -> PhysAddr | None:
        """The root whose kernel half is the model: CR3 of the first CPU with paging on."""
        with_paging = [c for c in self.cpus if c.paging is not None]
        return with_paging[0].root if with_paging else None

    def walk(self, root: int, va: int) -> Walk:
        return walk(self.tables, root, va, self.levels, self.nxe)

    def memory_of(self, root: int) -> VirtualMemory:
        """A reader of one address space."""
        return VirtualMemory(self.tables, root, self.levels)

    @cached_property
    def tss(self) -> Mapping[int, Tss]:
        """CPU index -> its TSS, for each that can be read under that CPU's CR3 or the reference
        root."""
        found: dict[int, Tss] = {}
        for cpu in self.cpus:
            for root in (cpu.root, self.reference_root):
                if cpu.tr is None or root is None or cpu.index in found or not cpu.tr.base:
                    continue
                try:
                    found[cpu.index] = read_tss(self.memory_of(root).read, cpu.tr.base)
                except ReadError:
                    continue
        return found

    @cached_property
    def gates(self) -> Mapping[int, Gate]:
        """Vector -> present gate of the IDT of the CPU the stop is about. Raises `ReadError`."""
        cpu = self.cpu
        if cpu.idtr is None or cpu.root is None:
            raise ReadError("IDTR is not known")
        root = cpu.root
        try:
            return read_gates(self.memory_of(root).read, cpu.idtr)
        except ReadError:
            if self.reference_root in (None, root):
                raise
            return read_gates(self.memory_of(self.reference_root or root).read, cpu.idtr)

    @cached_property
    def handler_slots(self) -> frozenset[int]:
        """Top-level slots of the handlers that the `gates` lead to. Raises `ReadError`."""
        return frozenset(slots_of([gate.offset for gate in self.gates.values()], self.levels))

    @cached_property
    def merged(self) -> Spaces:
        """Whole spaces as ranges."""
        return Spaces(self.tables, self.levels, self.nxe)

    def ranges(self, root: PhysAddr, slot: int) -> tuple[Range, ...]:
        """What one top-level slot of `root` maps, merged by effective permission."""
        start = sign_extended(slot << LEVEL[self.levels].shift, self.levels)
        end = start + (1 << LEVEL[self.levels].shift)
        return tuple(
            Range(max(r.start, start), min(r.end, VirtAddr(end)), r.w, r.u, r.nx)
            for r in self.merged.space(root).ranges
            if r.end > start and r.start < end
        )
