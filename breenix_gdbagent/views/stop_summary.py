"""Why a guest is stopped and where each of its CPUs is, as a report tells it."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.views.call_trace import CallTrace, trace_of_cpu
from breenix_gdbagent.views.space_map import SpaceMap, space_map
from breenix_gdbagent.views.variables import INSIDE

FRAMES = 8
"""Frames of a fault whose variables a report tells."""


@dataclass(frozen=True, slots=True)
class CpuSummary:
    """A CPU: the space that its CR3 names (None: paging off, or not known), the symbol at RIP, the
    thread that the kernel has on it, its frames. `visits`: the thread is the kernel's own and only
    stands in a process's space (idle after that process ended)."""

    cpu: Cpu
    space: Space | None
    symbol: str | None
    thread: str | None
    trace: CallTrace
    visits: bool = False


@dataclass(frozen=True, slots=True)
class StopSummary:
    """A stop and its CPUs; `error_code` and `cr2` where it is at the handler of an exception that
    has them."""

    stop: Stop
    error_code: int | None
    cr2: int | None
    cpus: tuple[CpuSummary, ...]


@dataclass(frozen=True, slots=True)
class StopPicture:
    """A stop with every root that was found, and what the audited spaces map."""

    summary: StopSummary
    spaces: tuple[Space, ...]
    maps: SpaceMap


def stop_picture(kernel: Kernel) -> StopPicture:
    """All that a report draws of the stop that decides a run."""
    return StopPicture(stop_summary(kernel), kernel.spaces, space_map(kernel))


def stop_summary(kernel: Kernel) -> StopSummary:
    """Why the guest is stopped and where its CPUs are."""
    stop = kernel.stop
    try:
        event = kernel.event
    except ReadError:
        event = None
    return StopSummary(
        stop,
        None if event is None else event.error_code,
        stop.cpu.get("cr2") if event is not None and event.vector == 14 else None,
        tuple(_cpu(kernel, cpu) for cpu in stop.cpus),
    )


def _failed(kernel: Kernel) -> bool:
    """Whether the stop is where something went wrong, so that one wants the variables there."""
    return kernel.stop.reason.kind in ("fault", "panic", "shutdown", "handler", "halted")


def _cpu(kernel: Kernel, cpu: Cpu) -> CpuSummary:
    rip = cpu.at
    failed = kernel.stop.cpu if _failed(kernel) else None
    return CpuSummary(
        cpu,
        kernel.space_of(cpu.root) if cpu.paging is not None else None,
        kernel.symbol(rip) if rip is not None else None,
        kernel.thread_name(cpu),
        trace_of_cpu(kernel, cpu, FRAMES if cpu is failed else 0, INSIDE),
        visits(kernel, cpu),
    )


def visits(kernel: Kernel, cpu: Cpu) -> bool:
    """Whether a thread of the kernel's own runs in a process's space: CR3 is left as it was when
    the kernel goes idle, and may outlive its process."""
    thread = kernel.thread_of(cpu)
    return thread is not None and not thread.user
