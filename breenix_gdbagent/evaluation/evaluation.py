"""What an expression is evaluated on: the registers of a stopped CPU, and its kernel when asked
for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.percpu import PerCpu, read_percpu
from breenix_gdbagent.kernel.processes import MANAGER
from breenix_gdbagent.kernel.typed import number, static_of
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.symbols.values import Value
from breenix_gdbagent.x86.cpu import CR3_ADDRESS, Cpu
from breenix_gdbagent.x86.paging import VirtualMemory

THREAD = "kernel::task::thread::Thread"


class Evaluation:
    """One CPU at one moment. `kernel()` is made once, and only when somebody needs it."""

    def __init__(self, cpu: Cpu, kernel: Callable[[], Kernel]) -> None:
        self.cpu = cpu
        self._make = kernel

    @classmethod
    def of(cls, kernel: Kernel, cpu: Cpu | None = None) -> Evaluation:
        """The CPU that a stop is about, or another one of it."""
        return cls(kernel.stop.cpu if cpu is None else cpu, lambda: kernel)

    @cached_property
    def kernel(self) -> Kernel:
        return self._make()

    @cached_property
    def memory(self) -> VirtualMemory:
        """The address space under the CPU's CR3. Raises `ReadError` while paging is off."""
        root, mode = self.cpu.root, self.cpu.paging
        if root is None or mode is None:
            raise ReadError(self.kernel.stop.no_paging)
        return VirtualMemory(self.kernel.tables, root, mode.levels)

    @cached_property
    def percpu(self) -> PerCpu | None:
        """The per-CPU block of this CPU, None where it has none."""
        return read_percpu(self.kernel.tables, self.cpu)

    @cached_property
    def thread(self) -> Value | None:
        """The thread that the per-CPU block names, None before there is one."""
        block = self.percpu
        if block is None or not block.current_thread:
            return None
        return self.kernel.structures.values.at(THREAD, block.current_thread)

    @cached_property
    def process(self) -> Value | None:
        """The process whose address space CR3 selects, else the one that owns the thread."""
        pid = self.pid
        if pid is None:
            return None
        manager = static_of(self.kernel.structures.values, MANAGER, "PROCESS_MANAGER").some()
        return None if manager is None else manager["processes"].item(pid)

    @cached_property
    def pid(self) -> int | None:
        """Its pid. By CR3 first: a switch changes the thread before the address space."""
        table = self.kernel.structures.processes
        root = self.cpu.cr3
        for process in table.processes:
            if root is not None and process.effective_root == root & CR3_ADDRESS:
                return process.pid
        thread = self.thread
        owner = None if thread is None else thread.field("owner_pid")
        if owner is not None and (inside := owner.some()) is not None:
            return inside.integer()
        found = None if thread is None else number(thread, "id")
        owning = None if found is None else table.by_thread(found)
        return None if owning is None else owning.pid


def of_cpu(stop: Stop, cpu: int) -> Stop:
    """The stop as seen from another CPU: no fault of its own, only where that CPU stands."""
    if cpu == stop.reason.cpu:
        return stop
    return stop._replace(reason=StopReason("attached", cpu, text=f"CPU {cpu} of the same stop"))
