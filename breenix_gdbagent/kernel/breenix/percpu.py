"""The per-CPU block that GS points at (kernel/src/per_cpu.rs)."""

from __future__ import annotations

import struct

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.breenix.layout import PERCPU, PERCPU_SIZE
from breenix_gdbagent.kernel.percpu import PerCpu
from breenix_gdbagent.x86.control import CR3_ADDRESS
from breenix_gdbagent.x86.paging import read_virtual


def read_percpu(tables: Tables, cpu: Cpu) -> PerCpu | None:
    """The block of `cpu`, or None where GS leads to nothing that is one.

    GS base and kernel GS base are both tried (they are equal on Breenix in both rings). Accepted
    only when the block says so itself in two ways: its TSS pointer is the TR base, and its
    kernel CR3 is a page-aligned frame that can be read as a table.
    """
    root = cpu.root
    mode = cpu.paging
    if root is None or mode is None:
        return None
    for name in ("gs_base", "k_gs_base"):
        base = cpu.get(name)
        if not base:
            continue
        try:
            raw = read_virtual(tables, root, VirtAddr(base), PERCPU_SIZE, mode.levels)
        except ReadError:
            continue
        block = _decode(cpu.index, VirtAddr(base), raw)
        if _is_percpu(tables, cpu, block):
            return block
    return None


def _decode(index: int, base: VirtAddr, raw: bytes) -> PerCpu:
    def u64(name: str) -> int:
        return int(struct.unpack_from("<Q", raw, PERCPU[name])[0])

    return PerCpu(
        cpu=index,
        base=base,
        cpu_id=u64("cpu_id"),
        current_thread=VirtAddr(u64("current_thread")),
        kernel_stack_top=VirtAddr(u64("kernel_stack_top")),
        idle_thread=VirtAddr(u64("idle_thread")),
        preempt_count=struct.unpack_from("<I", raw, PERCPU["preempt_count"])[0],
        need_resched=raw[PERCPU["need_resched"]],
        tss=VirtAddr(u64("tss")),
        next_cr3=PhysAddr(u64("next_cr3")),
        kernel_cr3=PhysAddr(u64("kernel_cr3")),
        saved_process_cr3=PhysAddr(u64("saved_process_cr3")),
        size=PERCPU_SIZE,
    )


def _is_percpu(tables: Tables, cpu: Cpu, block: PerCpu) -> bool:
    if cpu.tr is not None and block.tss not in (0, cpu.tr.base):
        return False
    master = block.kernel_cr3
    if not master or master & ~CR3_ADDRESS:
        return False
    try:
        tables.table(PhysAddr(master & CR3_ADDRESS))
    except ReadError:
        return False
    return block.tss != 0 or block.current_thread != 0
