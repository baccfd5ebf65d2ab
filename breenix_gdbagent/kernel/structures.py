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
    from breenix_gdbagent.kernel.allocators import FrameAllocator, Heap
    from breenix_gdbagent.kernel.processes import ProcessTable
    from breenix_gdbagent.kernel.scheduler import Scheduler
    from breenix_gdbagent.stop import Stop
    from breenix_gdbagent.symbols.values import Values
    from breenix_gdbagent.x86.machine import Machine

_T = TypeVar("_T")


class Structures:
    """The typed readers of one stop."""

    def __init__(self, stop: Stop, machine: Machine) -> None:
        self._stop = stop
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
        from breenix_gdbagent.kernel.processes import read_processes

        return self._once("processes", lambda: read_processes(self.values))

    @cached_property
    def no_processes_yet(self) -> bool:
        """Whether the kernel has surely not come to `process::init`: no root is a process's."""
        from breenix_gdbagent.kernel.processes import has_manager

        try:
            return not has_manager(self.values)
        except (ReadError, InputError):
            return False

    @cached_property
    def scheduler(self) -> Scheduler:
        """Threads, queues, and who runs."""
        from breenix_gdbagent.kernel.scheduler import read_scheduler

        return self._once("scheduler", lambda: read_scheduler(self.values))

    @cached_property
    def frames(self) -> FrameAllocator:
        """The frame allocator with its free list and ledger."""
        from breenix_gdbagent.kernel.allocators import read_frame_allocator

        return self._once("frames", lambda: read_frame_allocator(self.values))

    @cached_property
    def heap(self) -> Heap:
        """The kernel heap's own account."""
        from breenix_gdbagent.kernel.allocators import read_heap

        return self._once("heap", lambda: read_heap(self.values))

    @cached_property
    def stack_slots(self) -> frozenset[int]:
        """Kernel-stack slots that the bitmap has as taken."""
        from breenix_gdbagent.kernel.allocators import read_stack_slots

        return self._once("stack_slots", lambda: read_stack_slots(self.values)[0])
