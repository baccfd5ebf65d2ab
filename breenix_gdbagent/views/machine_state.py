"""What a page shows of the machine at a stop: every CPU's registers and code, and the kernel's
processes, threads, heap and frame allocator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.views.code_around import CodeAround, code_around, looked_at

if TYPE_CHECKING:
    from breenix_gdbagent.arch.cpu import Cpu
    from breenix_gdbagent.kernel.allocators import FrameAllocator, Heap
    from breenix_gdbagent.kernel.processes import Process
    from breenix_gdbagent.kernel.scheduler import Scheduler
    from breenix_gdbagent.kernel.threads import Thread
    from breenix_gdbagent.kernel.view import Kernel

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CpuState:
    """One CPU: its general registers by name, in the architecture's order, and its code."""

    index: int
    registers: tuple[tuple[str, int], ...]
    code: CodeAround


@dataclass(frozen=True, slots=True)
class MachineState:
    """A part that the stop does not have is None, and `lacking` says why, by the part's name.
    `names` are the symbols of addresses that the threads stand at."""

    cpus: tuple[CpuState, ...] = ()
    processes: tuple[Process, ...] | None = None
    threads: tuple[Thread, ...] | None = None
    scheduler: Scheduler | None = None
    heap: Heap | None = None
    frames: FrameAllocator | None = None
    lacking: tuple[tuple[str, str], ...] = ()
    names: tuple[tuple[int, str], ...] = ()


def machine_state(kernel: Kernel) -> MachineState:
    """The state of a stop. Never raises."""
    lacking: dict[str, str] = {}

    def had(part: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ReadError as error:
            lacking[part] = error.what
            return None

    kept = kernel.structures
    table = had("processes", lambda: kept.processes)
    scheduler = had("threads", lambda: kept.scheduler)
    heap = had("heap", lambda: kept.heap)
    frames = had("frames", lambda: kept.frames)
    threads = None if scheduler is None else scheduler.threads
    return MachineState(
        cpus=tuple(_cpu(kernel, cpu) for cpu in kernel.stop.cpus),
        processes=None if table is None else tuple(table.processes),
        threads=threads,
        scheduler=scheduler,
        heap=heap,
        frames=frames,
        lacking=tuple(lacking.items()),
        names=tuple((int(t.context.rip), kernel.describe(t.context.rip)) for t in threads or ()),
    )


def _cpu(kernel: Kernel, cpu: Cpu) -> CpuState:
    names = cpu.arch.names
    wanted = dict.fromkeys((*names.general, names.pc, names.sp, names.flags))
    known = ((name, cpu.get(name)) for name in wanted)
    return CpuState(
        cpu.index,
        tuple((name, value) for name, value in known if value is not None),
        code_around(kernel, cpu, looked_at(kernel, cpu)),
    )
