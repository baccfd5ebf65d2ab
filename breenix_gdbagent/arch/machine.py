"""`Machine`: a stopped machine by its registers and tables, whichever kernel runs on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.arch.cpu import Arch, Cpu, Mode, Paging, VirtualReader
from breenix_gdbagent.arch.descriptors import Gate, Tss
from breenix_gdbagent.arch.spaces import Range, SpaceReader
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.errors import ReadError

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

    @property
    def arch(self) -> Arch:
        """The architecture of the CPU the stop is about."""
        return self.cpu.arch

    @cached_property
    def mode(self) -> Mode | None:
        """Paging mode of the CPU the stop is about, else of any CPU with paging on."""
        modes = (cpu.paging for cpu in (self.cpu, *self.cpus))
        return next((mode for mode in modes if mode is not None), None)

    @property
    def levels(self) -> int:
        return self.mode.levels if self.mode else 4

    @cached_property
    def paging(self) -> Paging:
        """Sizes and indexes of tables, in the mode of the stop."""
        return self.arch.paging.bound(self.mode)

    @property
    def top(self) -> int:
        """The level that a walk begins at."""
        return self.paging.top(self.mode)

    @property
    def nxe(self) -> bool | None:
        return self.mode.nxe if self.mode else None

    @cached_property
    def reference_root(self) -> PhysAddr | None:
        """The root whose kernel half is the model: CR3 of the first CPU with paging on."""
        with_paging = [c for c in self.cpus if c.paging is not None]
        return with_paging[0].root if with_paging else None

    @cached_property
    def walk(self) -> Callable[[int, int], Walk]:
        """Where an address leads: of (root, address), in the mode of the stop."""
        return self.arch.paging.walker(self.tables, self.mode)

    def memory_of(self, root: int) -> VirtualReader:
        """A reader of one address space."""
        return self.arch.paging.memory(self.tables, root, self.mode)

    @cached_property
    def tss(self) -> Mapping[int, Tss]:
        """CPU index -> its TSS, for each that can be read under that CPU's CR3 or the reference
        root."""
        found: dict[int, Tss] = {}
        for cpu in self.cpus:
            for root in (cpu.root, self.reference_root):
                if root is None or cpu.index in found:
                    continue
                try:
                    tss = cpu.arch.tss(cpu, self.memory_of(root).read)
                except ReadError:
                    continue
                if tss is not None:
                    found[cpu.index] = tss
        return found

    @cached_property
    def gates(self) -> Mapping[int, Gate]:
        """Vector -> present gate of the IDT of the CPU the stop is about. Raises `ReadError`."""
        cpu = self.cpu
        root = cpu.root
        if root is None:
            raise ReadError("IDTR is not known")
        try:
            return cpu.arch.gates(cpu, self.memory_of(root).read)
        except ReadError:
            if self.reference_root in (None, root):
                raise
            return cpu.arch.gates(cpu, self.memory_of(self.reference_root or root).read)

    @cached_property
    def handler_slots(self) -> frozenset[int]:
        """Top-level slots of the handlers that the `gates` lead to. Raises `ReadError`."""
        return frozenset(
            self.paging.slots_of([g.offset for g in self.gates.values()], self.top)
        )

    @cached_property
    def merged(self) -> SpaceReader:
        """Whole spaces as ranges."""
        return self.arch.paging.spaces(self.tables, self.mode)

    def ranges(self, root: PhysAddr, slot: int) -> tuple[Range, ...]:
        """What one top-level slot of `root` maps, merged by effective permission."""
        start = self.paging.slot_start(slot, self.top)
        end = start + self.paging.span(self.top)
        return tuple(
            Range(max(r.start, start), min(r.end, VirtAddr(end)), *r[2:])
            for r in self.merged.space(root).ranges
            if r.end > start and r.start < end
        )
