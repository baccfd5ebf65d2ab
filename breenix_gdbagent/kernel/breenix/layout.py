"""Breenix's constants, era by era, each with the file it comes from.

Only what cannot be discovered from the stopped machine stands here. What is found in the tables
wins: an era is *recognised* by the stacks that are mapped, never by a version.
"""

from __future__ import annotations

from breenix_gdbagent.kernel.adapter import Layout
from breenix_gdbagent.kernel.stacks import Era

KERNEL_STACKS = 0xFFFF_C900_0000_0000  # kernel/src/memory/kernel_stack.rs
IST_STACKS = 0xFFFF_C980_0000_0000  # kernel/src/memory/per_cpu_stack.rs
HEAP_START = 0x4444_4444_0000  # kernel/src/memory/heap.rs
USER_LIMIT = 0x8000_0000_0000  # kernel/src/memory/layout.rs
KERNEL_STACKS_SLOT = 402
IST_STACKS_SLOT = 403
HEAP_SLOT = 136
BOOT_SHARED_SLOT = 256  # names KERNEL_PDPT in every root (kernel/src/memory/kernel_page_table.rs)

COW_FLAG = 1 << 9  # kernel/src/memory/process_memory.rs (2026): copy-on-write leaf

USER_STACK_GROWTH = 64 * 1024  # 2026: a user fault this far below a user stack grows it


# kernel/src/memory/kernel_stack.rs
ERAS = (
    Era("2026", KERNEL_STACKS, 512 << 10, 254, KERNEL_STACKS + (128 << 20)),
    Era("2025", KERNEL_STACKS, 64 << 10, 240, KERNEL_STACKS + (16 << 20)),
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

LAYOUT = Layout(
    kernel_stacks=range(KERNEL_STACKS, KERNEL_STACKS + (128 << 20)),
    ist_stacks=range(IST_STACKS, IST_STACKS + (16 << 20)),
    ist_bottoms={DF_STACK[1]: DF_STACK[0], PF_STACK[1]: PF_STACK[0]},
    heap=range(HEAP_START, HEAP_START + (64 << 20)),  # kernel/src/memory/heap.rs; 1 MiB in 2025
    # kernel/src/memory/layout.rs, kernel/src/memory/stack.rs: the same in both eras.
    user_image=range(0x4000_0000, 0x8000_0000),
    user_stacks=range(0x7FFF_FF00_0000, USER_LIMIT),
    mmap=range(0x7000_0000_0000, 0x7FFF_FE00_0000),
    user_end=USER_LIMIT,
    uses={
        KERNEL_STACKS_SLOT: "kernel stacks",
        IST_STACKS_SLOT: "IST stacks",
        HEAP_SLOT: "kernel heap",
    },
    heap_slot=HEAP_SLOT,
)
