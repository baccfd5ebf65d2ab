"""Breenix's constants, era by era, each with the file it comes from.

Only what cannot be discovered from the stopped machine stands here. What is found in the tables
wins: an era is *recognised* by the stacks that are mapped, never by a version.
"""

from __future__ import annotations

from dataclasses import dataclass

KERNEL_STACKS = 0xFFFF_C900_0000_0000  # kernel/src/memory/kernel_stack.rs
IST_STACKS = 0xFFFF_C980_0000_0000  # kernel/src/memory/per_cpu_stack.rs
HEAP_START = 0x4444_4444_0000  # kernel/src/memory/heap.rs
USER_LIMIT = 0x8000_0000_0000  # kernel/src/memory/layout.rs
KERNEL_STACKS_SLOT = 402
IST_STACKS_SLOT = 403
HEAP_SLOT = 136
BOOT_SHARED_SLOT = 256  # names KERNEL_PDPT in every root (kernel/src/memory/kernel_page_table.rs)

COW_FLAG = 1 << 9  # kernel/src/memory/process_memory.rs (2026): copy-on-write leaf

GUARD_SIZE = 0x1000
NEAR_NULL = 0x1_0000
USER_STACK_GROWTH = 64 * 1024  # 2026: a user fault this far below a user stack grows it


@dataclass(frozen=True, slots=True)
class Era:
    """One shape of Breenix's memory. Sizes in bytes."""

    name: str
    stack_size: int
    stack_slots: int
    stacks_end: int
    source: str

    @property
    def slot_size(self) -> int:
        return self.stack_size + GUARD_SIZE


ERAS = (
    Era("2026", 512 << 10, 254, KERNEL_STACKS + (128 << 20), "kernel/src/memory/kernel_stack.rs"),
    Era("2025", 64 << 10, 240, KERNEL_STACKS + (16 << 20), "kernel/src/memory/kernel_stack.rs"),
)

DF_STACK = (IST_STACKS, IST_STACKS + 0x2000)  # kernel/src/memory/per_cpu_stack.rs, [bottom, top)
PF_STACK = (IST_STACKS + 0x2000, IST_STACKS + 0x4000)

# Offsets in the per-CPU block behind GS: an assembly ABI, pinned by const asserts in
# kernel/src/arch_impl/x86_64/constants.rs and kernel/src/per_cpu.rs.
PERCPU = {
    "cpu_id": 0,
    "current_thread": 8,
    "kernel_stack_top": 16,
    "idle_thread": 24,
    "preempt_count": 32,
    "need_resched": 36,
    "user_rsp_scratch": 40,
    "tss": 48,
    "softirq_pending": 56,
    "next_cr3": 64,
    "kernel_cr3": 72,
    "saved_process_cr3": 80,
}
PERCPU_SIZE = 88

# An event at these vectors (#DB, NMI, #BP) is how a kernel works, not a fault of it.
ORDINARY_VECTORS = frozenset({1, 2, 3})
