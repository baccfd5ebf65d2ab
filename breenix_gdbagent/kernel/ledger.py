"""The frame ledger of a stop: physical frame -> every mapping and every use as a table.

Built over the audited spaces, the master first. What the kernel shares is looked at once; whether a
frame is also known to the allocator, `structures.frames` says.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from breenix_gdbagent.addresses import PhysAddr, VirtAddr, sign_extended
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.sharing import KernelSlots, learn_slots
from breenix_gdbagent.x86.graph import Node, RootPlan, TableGraph
from breenix_gdbagent.x86.paging import NX, U, W, entry_index, frame_of, leaf_base, slots_of, span
from breenix_gdbagent.x86.reverse import FrameIndex, Who

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.address_spaces import AddressSpaces
    from breenix_gdbagent.kernel.spaces import Space


class Page(NamedTuple):
    """One leaf as one space maps it, with the rights of all levels on the way it was reached."""

    node: Node
    va: VirtAddr
    pa: PhysAddr
    size: int
    raw: int
    entry_pa: PhysAddr
    w: bool
    u: bool
    nx: bool


class FrameLedger:
    """See the module. Raises `Unreadable` when a root cannot be read."""

    def __init__(self, kernel: AddressSpaces) -> None:
        self._kernel = kernel
        self.master = kernel.master
        found = [s for s in kernel.audit_scope if s.role == "process"]
        self.others = tuple(s for s in kernel.audit_scope if s.role in ("boot", "unknown"))
        # What may be dead comes last: by then it is known which frames serve others.
        self.processes = tuple(s for s in found if kernel.user_half_is_own(s))
        doubtful = [s for s in found if not kernel.user_half_is_own(s)]
        self.slots = self._learn(doubtful)
        self._slot = span(kernel.levels)  # bytes that one top-level slot serves
        plans = self._plans(self.spaces)
        self.graph = TableGraph(kernel.tables, plans, kernel.levels, kernel.stop.memory.ram)
        self.reused = self._reused({s.root for s in doubtful})
        """Roots without a witness whose frame is mapped, or a table of another level."""
        left = [s for s in doubtful if s.root not in self.reused]
        for plan in self._plans(left):
            self.graph.visit(plan)
        self.processes += tuple(left)

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The audited spaces in the order in which they were visited."""
        first = () if self.master is None else (self.master,)
        return (*first, *self.processes, *self.others)

    def _learn(self, doubtful: Sequence[Space]) -> KernelSlots | None:
        if self.master is None:
            return None
        roots = (s.root for s in (*self.processes, *doubtful))
        return learn_slots(self._kernel.tables, self.master.root, roots, slots_in_use(self._kernel))

    def _plans(self, spaces: Iterable[Space]) -> Iterator[RootPlan]:
        every = range(512)
        for space in spaces:
            if self.slots is None:
                yield RootPlan(space.root, (), every)
                continue
            table = self._kernel.tables.table(space.root)
            kernel = self.slots.slots if space is self.master else self.slots.elsewhere(table)
            # A root that may be a dead one: its user tables may be anything by now.
            mine = space.role != "process" or self._kernel.user_half_is_own(space)
            yield RootPlan(space.root, kernel, self.slots.own(table) if mine else ())

    @property
    def skipped(self) -> tuple[Space, ...]:
        """Processes whose user half was not looked at: their roots may be dead ones. Those of
        which that is known (`retiring`) do not count."""
        found = [s for s in self._kernel.audit_scope if s.role == "process"]
        return tuple(s for s in found if not self._kernel.user_half_is_own(s) and not s.retiring)

    def _reused(self, roots: set[PhysAddr]) -> frozenset[PhysAddr]:
        if not roots:
            return frozenset()
        found = {frame for frame in roots if frame in self.kernel_frames}
        for node in self.graph.nodes.values():
            if node.frame in roots and node.level != self.graph.levels:
                found.add(node.frame)
            if node.kernel or node.level != 1:
                continue
            pages = ((i, raw) for i, raw in node.leaves() if frame_of(raw) in roots)
            found |= {frame_of(raw) for i, raw in pages if not self.direct(node, i, raw)}
        return frozenset(found)

    def space_of(self, node: Node) -> Space | None:
        """The space under which a table was first reached."""
        return self._kernel.space_of(node.owner)

    @cached_property
    def table_frames(self) -> dict[PhysAddr, list[int]]:
        """Every frame in use as a table, and its levels."""
        return self.graph.levels_of

    @cached_property
    def direct_offsets(self) -> frozenset[int]:
        """``va - pa`` of the kernel's direct maps, by their large pages."""
        offsets = set()
        for node in self.graph.nodes.values():
            if node.level > 1 and node.raws and not node.rights & U:
                index, raw = node.at[0], node.raws[0]
                va = sign_extended(node.va + (index << node.shift), self.graph.levels)
                offsets.add(va - leaf_base(node.level, raw))
        return frozenset(offsets)

    def page(self, node: Node, index: int, raw: int) -> Page:
        """One leaf of a node."""
        rights = node.rights & (raw ^ NX)
        return Page(
            node,
            sign_extended(node.va + (index << node.shift), self.graph.levels),
            leaf_base(node.level, raw),
            1 << node.shift,
            raw,
            PhysAddr(node.frame + index * 8),
            bool(rights & W),
            bool(rights & U),
            not rights & NX,
        )

    def direct(self, node: Node, index: int, raw: int) -> bool:
        """Whether a leaf belongs to a direct map of memory that only the kernel uses: at the same
        distance from its frame as the large pages, or identity within its top-level slot (the
        bootloader's, and Breenix's 1-3 MiB in each process)."""
        if node.rights & raw & U:
            return False
        va = sign_extended(node.va + (index << node.shift), self.graph.levels)
        pa = leaf_base(node.level, raw)
        return va - pa in self.direct_offsets or va % self._slot == pa

    def user_pages(self) -> Iterator[Page]:
        """Every page below slots that are not the kernel's, of processes, that ring 3 may use."""
        mine = {s.root for s in self.processes}
        for node in self.graph.nodes.values():
            if node.kernel or not node.raws or node.owner not in mine or not node.rights & U:
                continue
            for index, raw in node.leaves():
                if raw & U:
                    yield self.page(node, index, raw)

    @property
    def kernel_frames(self) -> dict[int, int]:
        """Frame -> where the entry lies that maps it for the kernel alone, direct maps left out."""
        return self._kernel_pages[0]

    @property
    def kernel_twice(self) -> list[int]:
        """Further entries that map those frames."""
        return self._kernel_pages[1]

    def page_at(self, entry_pa: int) -> Page:
        """The page that a last-level entry of a table of these spaces maps."""
        node = self.graph.nodes[entry_pa & ~0xFFF | 1]
        index = entry_index(entry_pa)
        return self.page(node, index, node.raws[bisect_left(node.at, index)])

    @cached_property
    def _kernel_pages(self) -> tuple[dict[int, int], list[int]]:
        found: dict[int, int] = {}
        again: list[int] = []
        offsets = self.direct_offsets
        for node in self.graph.nodes.values():
            if not node.kernel or node.level != 1 or node.owner != self._master_root:
                continue
            base = sign_extended(node.va, self.graph.levels)
            within = base % self._slot
            for index, frame in zip(node.at, node.frames(), strict=True):
                distance = (index << 12) - frame
                if within == -distance or base + distance in offsets:
                    continue
                if frame in found:
                    again.append(node.frame + index * 8)
                else:
                    found[frame] = node.frame + index * 8
        return found, again

    @property
    def _master_root(self) -> PhysAddr | None:
        return None if self.master is None else self.master.root

    @cached_property
    def index(self) -> FrameIndex:
        """From a frame back to all that the audited spaces do with it."""
        kernel = self._kernel
        roots = [s.root for s in self.spaces]
        return FrameIndex(kernel.tables, roots, kernel.levels, kernel.nxe)

    def who(self, pa: int) -> Who:
        """Every mapping of a byte, and every use of its frame as a table."""
        return self.index.who(pa)


def slots_in_use(kernel: AddressSpaces) -> dict[int, str]:
    """Top-level slot -> what the kernel keeps there: the regions of Breenix, and what registers and
    gates name, as far as it is mapped there (a broken gate makes no region)."""
    found = dict(kernel.adapter.layout.uses)
    places: list[tuple[str, int]] = []
    for cpu in kernel.stop.cpus:
        for what, place in (("IDT", cpu.idtr), ("GDT", cpu.gdtr), ("TSS", cpu.tr)):
            if place is not None and place.base:
                places.append((what, place.base))
    places += [("per-CPU block", block.base) for block in kernel.percpus]
    with suppress(ReadError):
        places += [("interrupt handlers", gate.offset) for gate in kernel.gates.values()]
    root = kernel.reference_root
    slots = slots_of([va for _, va in places], kernel.levels)
    for slot, (what, va) in zip(slots, places, strict=True):
        # Slot 0 is the bootloader's identity mapping: a process has its own.
        if slot and slot not in found and root is not None and kernel.walk(root, va).mapped:
            found[slot] = what
    return found
