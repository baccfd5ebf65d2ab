"""`Kernel`: everything that is read of one stop, each part discovered when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.address_spaces import AddressSpaces
from breenix_gdbagent.kernel.event import Event, event_at_handler
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.stacks import KernelStack, ist_stacks, slot_stack, used_slots

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.ledger import FrameLedger
    from breenix_gdbagent.kernel.threads import Thread


class Kernel(AddressSpaces):
    """The reader of one stop: what stands on the machine and its address spaces.

    Its properties raise `ReadError` where the stop lacks what they need; what may be absent by
    nature (no per-CPU block: not Breenix, or too early) is None or empty.
    """

    def __repr__(self) -> str:
        return f"<Kernel of {self.stop!r}>"

    @cached_property
    def audited(self) -> tuple[Space, ...]:
        """The spaces that every check is about: those considered, without dead roots whose frame
        those that are alive have for something else."""
        if all(s.role != "process" or self.user_half_is_own(s) for s in self.audit_scope):
            return self.audit_scope
        reused = self.ledger.reused
        return tuple(s for s in self.audit_scope if s.root not in reused)

    @cached_property
    def stacks(self) -> tuple[KernelStack, ...]:
        """Every kernel-stack slot that any audited space maps a page of."""
        if self.era is None:
            return ()
        slots: set[int] = set()
        looked_at: set[int] = set()
        for space in self.audited:
            if space.role in ("master", "process") or not self.adapter.has_percpu:
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
            known = self.arch.vectors
            vectors = {g.ist: known.get(v, str(v)) for v, g in self.gates.items() if g.ist}
        except ReadError:
            vectors = {}
        bottoms = self.adapter.layout.ist_bottoms
        found: dict[int, KernelStack] = {}
        for tss in self.tss.values():
            for stack in ist_stacks(tss.ist, vectors, mapped, bottoms):
                found.setdefault(stack.top, stack)
        return tuple(found[top] for top in sorted(found))

    def owners_of(self, stack: KernelStack) -> tuple[str, ...]:
        """Names of the live threads whose kernel stack it is; empty where the types are not
        known."""
        return self._stack_owners.get(stack.top, ())

    def dead_owners_of(self, stack: KernelStack) -> tuple[Thread, ...]:
        """The threads that are over and have not given it back, where no live one has it."""
        if stack.ist is not None or self.owners_of(stack):
            return ()
        try:
            threads = self.structures.scheduler.threads
        except ReadError:
            return ()
        # Where the kernel's threads name the slot that they own, one that is given back is none's.
        told = any(thread.kernel_stack_slot is not None for thread in threads)
        return tuple(
            thread
            for thread in threads
            if not thread.alive
            and thread.kernel_stack_top == stack.top
            and (thread.kernel_stack_slot is not None or not told)
        )

    @cached_property
    def _stack_owners(self) -> Mapping[int, tuple[str, ...]]:
        try:
            threads = self.structures.scheduler.threads
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
        if block is None:
            return None
        try:
            return self.structures.scheduler.thread_at(block.current_thread)
        except ReadError:
            return None

    def scheduled(self, cpu: Cpu) -> int | None:
        """The id of the thread that the scheduler has on `cpu`, None when that is not known."""
        try:
            return self.structures.scheduler.current_of(cpu.index)
        except ReadError:
            return None

    def thread_name(self, cpu: Cpu) -> str | None:
        """The name of `thread_of`; without the kernel's types that of the struct that the per-CPU
        block names."""
        thread = self.thread_of(cpu)
        if thread is not None:
            return thread.name
        return None if self._typed else self._untyped_name(cpu)

    @property
    def _typed(self) -> bool:
        """Whether the kernel's types are known."""
        image = self.stop.image
        return image is not None and image.image.has_dwarf

    def _untyped_name(self, cpu: Cpu) -> str | None:
        block, root = self.percpu_of(cpu), self.reference_root
        if block is None or not block.current_thread or root is None:
            return None
        from breenix_gdbagent.kernel.untyped import name_inside

        return name_inside(self.memory_of(root).read, int(block.current_thread))

    @cached_property
    def ledger(self) -> FrameLedger:
        """Every table and every mapping of the audited spaces. Raises `Unreadable`."""
        from breenix_gdbagent.kernel.ledger import FrameLedger

        return FrameLedger(self)

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

    def describe(self, va: int) -> str:
        """Address with its symbol, as reports print it."""
        return f"{hex64(va)} <{name}>" if (name := self.symbol(va)) else hex64(va)

    def is_percpu(self, va: int) -> bool:
        return any(p.base <= va < p.base + p.size for p in self.percpus)
