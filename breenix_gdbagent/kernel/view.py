"""Breenix as found in one Stop: everything here is discovered, on demand, once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PhysAddr, VirtAddr, hex64, sign_extended
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel import unvouched
from breenix_gdbagent.kernel.books import Books
from breenix_gdbagent.kernel.event import Event, event_at_handler
from breenix_gdbagent.kernel.layout import (
    BOOT_SHARED_SLOT,
    IST_STACKS,
    KERNEL_STACKS,
    PERCPU_SIZE,
    Era,
)
from breenix_gdbagent.kernel.percpu import PerCpu, read_percpu
from breenix_gdbagent.kernel.running import backtrace, running
from breenix_gdbagent.kernel.serial_log import LogFacts, read_log
from breenix_gdbagent.kernel.spaces import RECLAIMING, NamedRoot, Space, find_spaces
from breenix_gdbagent.kernel.stacks import (
    KernelStack,
    Leaf,
    StackRegion,
    ist_stacks,
    recognise_era,
    slot_stack,
    used_slots,
)
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.cpu import CR3_ADDRESS, Cpu, PagingMode
from breenix_gdbagent.x86.descriptors import Gate, Tss, read_gates, read_tss
from breenix_gdbagent.x86.paging import LEVEL, Tables, VirtualMemory, Walk, walk
from breenix_gdbagent.x86.roots import scan_roots
from breenix_gdbagent.x86.spaces import Range, Spaces
from breenix_gdbagent.x86.vectors import VECTOR_NAMES

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.ledger import FrameLedger
    from breenix_gdbagent.kernel.threads import Thread


class Kernel:
    """The reader of one Stop. Its properties raise `ReadError` where the stop lacks what they need;
    what may be absent by nature (no per-CPU block: not Breenix, or too early) is None or empty."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.tables = Tables(stop.memory)

    @cached_property
    def mode(self) -> PagingMode | None:
        """Paging mode of the CPU the stop is about, else of any CPU with paging on."""
        return self.stop.paging

    @property
    def levels(self) -> int:
        return self.mode.levels if self.mode else 4

    @property
    def nxe(self) -> bool | None:
        return self.mode.nxe if self.mode else None

    def walk(self, root: int, va: int) -> Walk:
        return walk(self.tables, root, va, self.levels, self.nxe)

    @cached_property
    def percpus(self) -> tuple[PerCpu, ...]:
        """The per-CPU block of each CPU that has one."""
        found = (read_percpu(self.tables, cpu) for cpu in self.stop.cpus)
        return tuple(p for p in found if p is not None)

    def percpu_of(self, cpu: Cpu) -> PerCpu | None:
        return next((p for p in self.percpus if p.cpu == cpu.index), None)

    @property
    def is_breenix(self) -> bool:
        """Whether a Breenix per-CPU block was found: else only generic checks apply."""
        return bool(self.percpus)

    @cached_property
    def log(self) -> LogFacts:
        return read_log(self.stop.serial)

    @cached_property
    def reference_root(self) -> PhysAddr | None:
        """The root whose kernel half is the model: the per-CPU block's kernel CR3, else CR3."""
        if self.percpus:
            return PhysAddr(self.percpus[0].kernel_cr3 & CR3_ADDRESS)
        with_paging = [c for c in self.stop.cpus if c.paging is not None]
        return with_paging[0].root if with_paging else None

    @cached_property
    def books(self) -> Books:
        """What the kernel's own structures say, where their types are known."""
        return Books(self)

    @cached_property
    def listed_processes(self) -> tuple[NamedRoot, ...] | None:
        """Roots of the kernel's own process table, and of dead processes that it keeps on purpose;
        None when its types are not known."""
        try:
            table = self.books.processes
        except ReadError:
            return () if self.books.no_processes_yet else None
        rows = [NamedRoot(p.root, p.pid, p.name) for p in table.processes if p.root is not None]
        kept = [(p.pid, root) for p in table.processes for root in p.old_roots]
        for pid, root in (*kept, *table.reclaiming):
            process = table.by_pid(pid)
            rows.append(NamedRoot(root, pid, process.name if process else None, RECLAIMING))
        return tuple(rows)

    @cached_property
    def spaces(self) -> tuple[Space, ...]:
        """Every root, ordered by physical address."""
        reference = self.reference_root
        scanned: dict[PhysAddr, str] = {}
        if reference is not None:
            for candidate in scan_roots(self.stop.memory, reference):
                scanned[candidate.root] = candidate.how
            if self.is_breenix:
                # The bootloader's own root shares only what was there before the master.
                for candidate in scan_roots(self.stop.memory, reference, (BOOT_SHARED_SLOT,)):
                    scanned.setdefault(candidate.root, f"slot {BOOT_SHARED_SLOT}")
        return find_spaces(
            self.tables, self.stop.cpus, self.percpus, scanned, self.log, self.listed_processes
        )

    @cached_property
    def witnessed(self) -> tuple[Space, ...]:
        """Roots that somebody names (a CR3, a per-CPU block, the process table): without the scan
        of RAM, which costs seconds where memory comes through the gdbstub."""
        return find_spaces(
            self.tables, self.stop.cpus, self.percpus, {}, self.log, self.listed_processes
        )

    @cached_property
    def master(self) -> Space | None:
        return next((s for s in self.spaces if s.role == "master"), None)

    @property
    def no_master(self) -> str:
        """Why there is no master PML4, in words."""
        if self.mode is None:
            return self.stop.no_paging
        if self.is_breenix:
            return "the kernel has not built its master PML4 yet: early boot"
        return "no Breenix per-CPU block: the master PML4 is not known"

    @cached_property
    def in_the_making(self) -> frozenset[PhysAddr]:
        """See `unvouched`; as the next two."""
        return unvouched.in_the_making(self)

    @cached_property
    def considered(self) -> tuple[Space, ...]:
        return unvouched.considered(self)

    @cached_property
    def audited(self) -> tuple[Space, ...]:
        """The spaces that every check is about."""
        return unvouched.still_roots(self)

    def space_of(self, root: int | None) -> Space | None:
        """The space that CR3 value or root names."""
        if root is None:
            return None
        return self._by_root.get(root & CR3_ADDRESS)

    @cached_property
    def _by_root(self) -> Mapping[int, Space]:
        return {s.root: s for s in self.spaces}

    def memory_of(self, root: int) -> VirtualMemory:
        """A reader of one address space."""
        return VirtualMemory(self.tables, root, self.levels)

    @cached_property
    def tss(self) -> Mapping[int, Tss]:
        """CPU index -> its TSS, for each that can be read under that CPU's CR3 or the master."""
        found: dict[int, Tss] = {}
        for cpu in self.stop.cpus:
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
        cpu = self.stop.cpu
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
    def kernel_region(self) -> StackRegion:
        return StackRegion(self.tables, KERNEL_STACKS, KERNEL_STACKS + (128 << 20), self.levels)

    @cached_property
    def ist_region(self) -> StackRegion:
        return StackRegion(self.tables, IST_STACKS, IST_STACKS + (16 << 20), self.levels)

    def kernel_leaves(self, root: PhysAddr) -> Mapping[int, Leaf]:
        """Kernel-stack pages that `root` maps. Raises `Unreadable`."""
        return self.kernel_region.leaves(root)

    def ist_leaves(self, root: PhysAddr) -> Mapping[int, Leaf]:
        """IST-stack pages that `root` maps. Raises `Unreadable`."""
        return self.ist_region.leaves(root)

    @cached_property
    def era(self) -> Era | None:
        """The era that the mapped kernel stacks show."""
        if self.master is None:
            return None
        return recognise_era(self.kernel_leaves(self.master.root))

    @cached_property
    def stacks(self) -> tuple[KernelStack, ...]:
        """Every kernel-stack slot that any audited space maps a page of."""
        if self.era is None:
            return ()
        slots: set[int] = set()
        looked_at: set[int] = set()
        for space in self.audited:
            if space.role in ("master", "process"):
                try:
                    leaves = self.kernel_leaves(space.root)
                except ReadError:
                    continue
                # One mapping for all spaces that share the master's entry.
                if id(leaves) not in looked_at:
                    looked_at.add(id(leaves))
                    slots.update(used_slots(leaves, self.era))
        return tuple(slot_stack(slot, self.era) for slot in sorted(slots))

    @cached_property
    def ist(self) -> tuple[KernelStack, ...]:
        """The IST stacks that the TSS of any CPU names."""
        root = self.reference_root
        if root is None:
            return ()
        try:
            mapped = self.ist_leaves(root)
        except ReadError:
            mapped = {}
        try:
            vectors = {g.ist: VECTOR_NAMES.get(v, str(v)) for v, g in self.gates.items() if g.ist}
        except ReadError:
            vectors = {}
        found: dict[int, KernelStack] = {}
        for tss in self.tss.values():
            for stack in ist_stacks(tss.ist, vectors, mapped):
                found.setdefault(stack.top, stack)
        return tuple(found[top] for top in sorted(found))

    def owners_of(self, stack: KernelStack) -> tuple[str, ...]:
        """Names of the live threads whose kernel stack it is; empty where the types are not
        known."""
        return self._stack_owners.get(stack.top, ())

    @cached_property
    def _stack_owners(self) -> Mapping[int, tuple[str, ...]]:
        try:
            threads = self.books.scheduler.threads
        except ReadError:
            return {}
        found: dict[int, tuple[str, ...]] = {}
        for thread in threads:
            if thread.kernel_stack_top is not None and thread.alive:
                top = int(thread.kernel_stack_top)
                found[top] = (*found.get(top, ()), thread.name)
        return found

    def stack_at(self, address: int) -> KernelStack | None:
        """The stack that holds `address` as an RSP."""
        return next((s for s in (*self.stacks, *self.ist) if s.holds(address)), None)

    @cached_property
    def event(self) -> Event | None:
        """The exception whose handler is about to run, None when the stop is another kind.

        Raises `ReadError` when its frame cannot be read.
        """
        reason, cpu = self.stop.reason, self.stop.cpu
        if reason.kind != "fault" or reason.vector is None or cpu.root is None:
            return None
        return event_at_handler(cpu, reason.vector, self.memory_of(cpu.root).read)

    def thread_of(self, cpu: Cpu) -> Thread | None:
        """The thread that the per-CPU block has on `cpu`, None when that or the kernel's types are
        not known."""
        block = self.percpu_of(cpu)
        try:
            return None if block is None else self.books.scheduler.thread_at(block.current_thread)
        except ReadError:
            return None

    def scheduled(self, cpu: Cpu) -> int | None:
        """The id of the thread that the scheduler has on `cpu`, None when that is not known."""
        try:
            return self.books.scheduler.current_of(cpu.index)
        except ReadError:
            return None

    def thread_name(self, cpu: Cpu) -> str | None:
        """The name of `thread_of`."""
        thread = self.thread_of(cpu)
        return None if thread is None else thread.name

    def believed(self, space: Space) -> bool:
        """Whether the user half of a process root may be judged: where frames come back, one that
        retires, or that nobody vouches for, may map what serves others by now."""
        return (space.live is True and not space.retiring) or not self.frames_come_back

    @cached_property
    def frames_come_back(self) -> bool:
        """Whether a frame may have been given out twice, so that a dead root's tables may serve
        others: not in 2025 (deallocate_frame does nothing), and never before the first return."""
        if self.stop.image is not None and self.master is not None:
            from breenix_gdbagent.kernel.untyped import frames_returned

            returned = frames_returned(self.stop.image, self.memory_of(self.master.root).read)
            if returned is not None:
                return returned
        return self.era is None or self.era.name != "2025"

    @cached_property
    def ledger(self) -> FrameLedger:
        """Every table and every mapping of the audited spaces. Raises `Unreadable`."""
        from breenix_gdbagent.kernel.ledger import FrameLedger

        return FrameLedger(self)

    def ranges(self, root: PhysAddr, slot: int) -> tuple[Range, ...]:
        """What one top-level slot of `root` maps, merged by effective permission."""
        start = sign_extended(slot << LEVEL[self.levels].shift, self.levels)
        end = start + (1 << LEVEL[self.levels].shift)
        return tuple(
            Range(max(r.start, start), min(r.end, VirtAddr(end)), r.w, r.u, r.nx)
            for r in self.merged.space(root).ranges
            if r.end > start and r.start < end
        )

    @cached_property
    def merged(self) -> Spaces:
        """Whole spaces as ranges."""
        return Spaces(self.tables, self.levels, self.nxe)

    def symbol(self, va: int) -> str | None:
        """``name+0x12`` of a kernel address, None without an ELF or a symbol there."""
        image = self.stop.image
        return image.name_of(va) if image is not None else None

    @cached_property
    def panic_message(self) -> str | None:
        """What a panic says: as the kernel printed it, else out of the argument of the handler
        that is about to run. None when there is no panic, or its message cannot be told."""
        if self.log.panics:
            return self.log.panics[0]
        cpu, info = self.stop.cpu, self.stop.cpu.get("rdi")
        if self.stop.reason.kind != "panic" or info is None or cpu.root is None:
            return None
        from breenix_gdbagent.kernel.panic_message import panic_message

        return panic_message(info, self.memory_of(cpu.root).read, self.stop.image)

    @cached_property
    def call_names(self) -> tuple[str, ...]:
        """Functions that the stop's CPU is in, the innermost first, as far as they are known."""
        here = running(self, self.stop.cpu)
        trace = None if here is None else backtrace(self, here)
        return () if trace is None else tuple(f.name for f in trace.frames if not f.ring)

    def describe(self, va: int) -> str:
        """Address with its symbol, as reports print it."""
        return f"{hex64(va)} <{name}>" if (name := self.symbol(va)) else hex64(va)

    def is_percpu(self, va: int) -> bool:
        return any(p.base <= va < VirtAddr(p.base + PERCPU_SIZE) for p in self.percpus)
