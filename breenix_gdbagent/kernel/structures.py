"""What the kernel's own structures say, each read once: they need an ELF with debug information.

Every property raises `ReadError` with the reason where it cannot be had; what needs no types goes
on without them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from breenix_gdbagent.errors import InputError, ReadError

if TYPE_CHECKING:
    from breenix_gdbagent.arch.machine import Machine
    from breenix_gdbagent.kernel.adapter import Adapter
    from breenix_gdbagent.kernel.allocators import FrameAllocator, Heap
    from breenix_gdbagent.kernel.processes import ProcessTable
    from breenix_gdbagent.kernel.scheduler import Scheduler
    from breenix_gdbagent.stop import Stop
    from breenix_gdbagent.symbols.values import Values

_T = TypeVar("_T")


class Structures:
    """The typed readers of one stop."""

    def __init__(self, stop: Stop, machine: Machine, adapter: Adapter) -> None:
        self._stop = stop
        self._adapter = adapter
        self._machine = machine
        self._failed: dict[str, ReadError] = {}

    def _once(self, what: str, read: Callable[[], _T]) -> _T:
        """`read()`, tried once: what failed for this stop fails again at once."""
        if what in self._failed:
            raise ReadError(self._failed[what].what)
        try:
            return read()
        except InputError as damaged:
            self._failed[what] = ReadError(damaged.what)
        except ReadError as lacking:
            self._failed[what] = lacking
        raise self._failed[what]

    @cached_property
    def values(self) -> Values:
        """Rust values in the kernel's address space."""
        image, root = self._stop.loaded, self._machine.reference_root
        if not image.image.has_dwarf:
            raise ReadError("the kernel's ELF has no debug information (DWARF)")
        if root is None:
            raise ReadError(self._stop.no_paging)
        from breenix_gdbagent.symbols.values import Values

        try:
            return Values(image, self._machine.memory_of(root).read)
        except InputError as damaged:
            raise ReadError(damaged.what) from damaged

    @cached_property
    def processes(self) -> ProcessTable:
        """The process table."""
        return self._once("processes", lambda: self._adapter.processes(self.values))

    @cached_property
    def no_processes_yet(self) -> bool:
        """Whether the kernel has surely made no process yet: no root is a process's."""
        try:
            return not self._adapter.has_processes(self.values)
        except (ReadError, InputError):
            return False

    @cached_property
    def scheduler(self) -> Scheduler:
        """Threads, queues, and who runs."""
        return self._once("scheduler", lambda: self._adapter.scheduler(self.values))

    @cached_property
    def frames(self) -> FrameAllocator:
        """The frame allocator with its free list and ledger."""
        return self._once("frames", lambda: self._adapter.frames(self.values))

    @cached_property
    def heap(self) -> Heap:
        """The kernel heap's own account."""
        return self._once("heap", lambda: self._adapter.heap(self.values))

    @cached_property
    def stack_slots(self) -> frozenset[int]:
        """Kernel-stack slots that the bitmap has as taken."""
        return self._once("stack_slots", lambda: self._adapter.stack_slots(self.values))
