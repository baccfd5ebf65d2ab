"""The address spaces of one stop: its roots, those that the checks cover, and which of them live.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.machine import Machine
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.adapter import Adapter
from breenix_gdbagent.kernel.adapters import adapter_of
from breenix_gdbagent.kernel.percpu import PerCpu
from breenix_gdbagent.kernel.serial_log import LogFacts
from breenix_gdbagent.kernel.spaces import RECLAIMING, NamedRoot, Space, find_spaces, listed_spaces
from breenix_gdbagent.kernel.stacks import Era, Leaf, StackRegion, recognise_era
from breenix_gdbagent.kernel.structures import Structures
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.control import CR3_ADDRESS
from breenix_gdbagent.x86.paging import table_named


class AddressSpaces(Machine):
    """The machine of one stop, and the roots of the kernel that runs on it, Breenix or another.

    Properties raise `ReadError` where the stop lacks what they need; what may be absent by nature
    (no per-CPU block: not Breenix, or too early) is None or empty.
    """

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.memory, stop.cpus, stop.cpu)
        self.stop = stop

    @cached_property
    def adapter(self) -> Adapter:
        """What is known of this kernel."""
        stop = self.stop
        image = stop.unplaced if stop.image is None else stop.image.image
        return adapter_of(self, image, stop.adapter)

    @cached_property
    def percpus(self) -> tuple[PerCpu, ...]:
        """The per-CPU block of each CPU that has one."""
        found = (self.adapter.percpu(self, cpu) for cpu in self.stop.cpus)
        return tuple(p for p in found if p is not None)

    def percpu_of(self, cpu: Cpu) -> PerCpu | None:
        return next((p for p in self.percpus if p.cpu == cpu.index), None)

    @property
    def is_breenix(self) -> bool:
        """Whether a Breenix per-CPU block was found: else only generic checks apply."""
        return bool(self.percpus)

    @cached_property
    def log(self) -> LogFacts:
        return self.adapter.log(self.stop.serial)

    @cached_property
    def reference_root(self) -> PhysAddr | None:
        """The root whose kernel half is the model: the per-CPU block's kernel CR3, else CR3."""
        if self.percpus:
            return PhysAddr(self.percpus[0].kernel_cr3 & CR3_ADDRESS)
        return super().reference_root

    @cached_property
    def structures(self) -> Structures:
        """What the kernel's own structures say, where their types are known."""
        return Structures(self.stop, self, self.adapter)

    @cached_property
    def listed_processes(self) -> tuple[NamedRoot, ...] | None:
        """Roots of the kernel's own process table, and of dead processes that it keeps on purpose;
        None when its types are not known."""
        try:
            table = self.structures.processes
        except ReadError:
            return () if self.structures.no_processes_yet else None
        rows = [NamedRoot(p.root, p.pid, p.name) for p in table.processes if p.root is not None]
        kept = [(p.pid, root) for p in table.processes for root in p.old_roots]
        for pid, root in (*kept, *table.reclaiming):
            process = table.by_pid(pid)
            rows.append(NamedRoot(root, pid, process.name if process else None, RECLAIMING))
        return tuple(rows)

    @cached_property
    def spaces(self) -> tuple[Space, ...]:
        """Every root, ordered by physical address."""
        if not self.arch.descriptor_tables:
            return listed_spaces(self.stop.cpus, self.listed_processes)
        reference = self.reference_root
        scanned: dict[PhysAddr, str] = {}
        if reference is not None:
            for candidate in self.arch.paging.roots(self.stop.memory, reference, ()):
                scanned[candidate.root] = candidate.how
            for slot in self.adapter.boot_slots if self.percpus else ():
                # The bootloader's own root shares only what was there before the master.
                for candidate in self.arch.paging.roots(self.stop.memory, reference, (slot,)):
                    scanned.setdefault(candidate.root, f"slot {slot}")
        return find_spaces(
            self.tables, self.stop.cpus, self.percpus, scanned, self.log, self.listed_processes
        )

    @cached_property
    def named_spaces(self) -> tuple[Space, ...]:
        """Roots that somebody names (a CR3, a per-CPU block, the process table): without the scan
        of RAM, which costs seconds where memory comes through the gdbstub."""
        if not self.arch.descriptor_tables:
            return self.spaces
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

    @property
    def no_roots(self) -> str:
        """Why no root was found, in words, where none was."""
        return "CR3 leads to no table" if self.mode is not None else self.stop.no_paging

    @cached_property
    def under_construction(self) -> frozenset[PhysAddr]:
        """Roots of processes without a witness that have nothing of their own yet.

        `ProcessPageTable::new` clears the frame from slot 0 on, copies the kernel's slots one by
        one, and only then gives slot 0 an empty table (kernel/src/memory/process_memory.rs, both
        eras): until something is mapped there, a slot that is missing may be still to come.
        """
        return frozenset(
            s.root
            for s in self.spaces
            if s.role == "process" and s.live is None and self._nothing_of_its_own(s.root)
        )

    def _nothing_of_its_own(self, root: PhysAddr) -> bool:
        try:
            table = table_named(self.levels, self.tables.table(root)[0])
            return table is None or not any(self.tables.table(table))
        except ReadError:
            return False

    @cached_property
    def audit_scope(self) -> tuple[Space, ...]:
        """Master and process roots not known to be dead nor in the making; boot and unknown only
        under a CR3."""
        in_use = {c.root for c in self.cpus if c.paging is not None}
        kernels = [s for s in self.spaces if s.role in ("master", "process")]
        meant = {s.root for s in kernels if s.live is not False} - self.under_construction
        return tuple(s for s in self.spaces if s.root in meant or s.root in in_use)

    def space_of(self, root: int | None) -> Space | None:
        """The space that CR3 value or root names."""
        if root is None:
            return None
        return self._by_root.get(root & CR3_ADDRESS)

    @cached_property
    def _by_root(self) -> Mapping[int, Space]:
        return {s.root: s for s in self.spaces}

    @cached_property
    def kernel_region(self) -> StackRegion:
        return StackRegion(self.tables, self.adapter.layout.kernel_stacks, self.levels)

    @cached_property
    def ist_region(self) -> StackRegion:
        return StackRegion(self.tables, self.adapter.layout.ist_stacks, self.levels)

    def kernel_leaves(self, root: PhysAddr) -> Mapping[int, Leaf]:
        """Kernel-stack pages that `root` maps. Raises `Unreadable`."""
        return self.kernel_region.leaves(root)

    def ist_leaves(self, root: PhysAddr) -> Mapping[int, Leaf]:
        """IST-stack pages that `root` maps. Raises `Unreadable`."""
        return self.ist_region.leaves(root)

    @cached_property
    def era(self) -> Era | None:
        """The era that the mapped kernel stacks show."""
        root = self.reference_root
        if self.adapter.has_percpu:
            root = None if self.master is None else self.master.root
        if root is None or not self.adapter.eras:
            return None
        return recognise_era(self.kernel_leaves(root), self.adapter.eras)

    def user_half_is_own(self, space: Space) -> bool:
        """Whether the user half of a process root may be judged: where frames come back, one that
        retires, or that nobody vouches for, may map what serves others by now."""
        return (space.live is True and not space.retiring) or not self.frames_come_back

    @cached_property
    def frames_come_back(self) -> bool:
        """Whether a frame may have been given out twice, so that a dead root's tables may serve
        others: not where the allocator takes none back, and never before the first return."""
        returned = None
        if self.stop.image is not None and self.master is not None:
            read = self.memory_of(self.master.root).read
            returned = self.adapter.frames_returned(self.stop.image, read)
        return self.adapter.takes_frames_back(self.era) if returned is None else returned
