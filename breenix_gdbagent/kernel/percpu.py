"""The block that a kernel keeps for each CPU."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.addresses import PhysAddr, VirtAddr


@dataclass(frozen=True, slots=True)
class PerCpu:
    """One CPU's block, `size` bytes long; every field as it stands in memory, 0 for what a kernel
    does not keep there. Addresses are virtual but `*_cr3`."""

    cpu: int
    base: VirtAddr
    cpu_id: int
    current_thread: VirtAddr
    kernel_stack_top: VirtAddr
    idle_thread: VirtAddr
    preempt_count: int
    need_resched: int
    tss: VirtAddr
    next_cr3: PhysAddr
    kernel_cr3: PhysAddr
    saved_process_cr3: PhysAddr
    size: int
