"""What Breenix's sources and history say of each finding: how it arose there, and where to look."""

from __future__ import annotations

from collections.abc import Mapping

from breenix_gdbagent.kernel.adapter import Advice

_GDT = "kernel/src/gdt.rs"
_INTERRUPTS = "kernel/src/interrupts.rs"
_INTERRUPTS_CONTEXT_SWITCH = "kernel/src/interrupts/context_switch.rs"
_MAIN = "kernel/src/main.rs"
_MEMORY_FRAME_ALLOCATOR = "kernel/src/memory/frame_allocator.rs"
_MEMORY_HEAP = "kernel/src/memory/heap.rs"
_MEMORY_KERNEL_PAGE_TABLE = "kernel/src/memory/kernel_page_table.rs"
_MEMORY_KERNEL_STACK = "kernel/src/memory/kernel_stack.rs"
_MEMORY_MOD = "kernel/src/memory/mod.rs"
_MEMORY_PER_CPU_STACK = "kernel/src/memory/per_cpu_stack.rs"
_MEMORY_PROCESS_MEMORY = "kernel/src/memory/process_memory.rs"
_PER_CPU = "kernel/src/per_cpu.rs"
_TASK_SCHEDULER = "kernel/src/task/scheduler.rs"

ADVICE: Mapping[str, Advice] = {
    "page-fault.unmapped": Advice(
        mend="If another space maps it, the kernel slot was not shared: look at "
        "ProcessPageTable::new. Else follow the pointer back from the faulting instruction (bt).",
        see=(
            _INTERRUPTS,
            _MEMORY_PROCESS_MEMORY,
        ),
    ),
    "page-fault.write-protected": Advice(
        arises="W is clear at some level: code and read-only data, a page shared copy-on-write "
        "whose mark (bit 9) was lost, or a parent entry that lost W.",
        mend="Check the flags that the mapping call passed, for the parents too (map_to ORs them).",
        see=(
            _INTERRUPTS,
            _MEMORY_PROCESS_MEMORY,
        ),
    ),
    "page-fault.supervisor-only": Advice(
        arises="A program followed a kernel pointer, or ring 3 was entered at a kernel address (a "
        "kernel context resumed as user code: Breenix 3a4b33a8). Or U was given to the last entry "
        "only: it counts when every level has it.",
        mend="If RIP is in the kernel image, the saved context of that thread is wrong. If the "
        "last entry has U, give it to the parent tables too (map_to_with_table_flags). Else the "
        "program is wrong.",
        see=(
            _INTERRUPTS_CONTEXT_SWITCH,
            _INTERRUPTS,
        ),
    ),
    "page-fault.no-execute": Advice(
        arises="A jump through a bad pointer, a return address overwritten, or code mapped with "
        "NO_EXECUTE (a loader that took a segment's flags wrong).",
        see=(
            _INTERRUPTS,
            "kernel/src/elf.rs",
        ),
    ),
    "page-fault.reserved-bit": Advice(
        see=(_MEMORY_PROCESS_MEMORY,),
    ),
    "page-fault.smep": Advice(
        see=(_INTERRUPTS_CONTEXT_SWITCH,),
    ),
    "page-fault.smap": Advice(
        mend="Go through copy_from_user and copy_to_user, with stac and clac around the copy.",
        see=(_MEMORY_MOD,),
    ),
    "page-fault.stale-tlb": Advice(
        see=(_MEMORY_PROCESS_MEMORY,),
    ),
    "page-fault.guard-page": Advice(
        arises="Recursion, large locals or logging on a deep path: 64 KiB in 2025 (Breenix "
        "3e763f99), 512 KiB since 7c6ea457; the IST stacks have 8 KiB and no guard page between "
        "them.",
        mend="Make the path shallower or the stack larger (KERNEL_STACK_SIZE).",
        see=(
            _MEMORY_KERNEL_STACK,
            _MEMORY_PER_CPU_STACK,
        ),
    ),
    "page-fault.null": Advice(
        arises="A pointer that was never set plus a field's offset (current_thread null: Breenix "
        "170432da, CR2 = 8).",
        see=(_PER_CPU,),
    ),
    "page-fault.non-canonical": Advice(
        see=(_INTERRUPTS,),
    ),
    "page-fault.handled": Advice(
        arises="Copy-on-write after fork (PTE bit 9), growth of a user stack, or a fault of a "
        "process that the kernel answers by ending the process.",
        see=(
            _INTERRUPTS,
            _MEMORY_PROCESS_MEMORY,
        ),
    ),
    "kernel-stack.unmapped": Advice(
        arises="A process PML4 was built before the stack's tables existed, or has a slot 402 of "
        "its own: the next interrupt or system call taken under that CR3 pushes onto nothing "
        "(Breenix d90ed3bd, 05889549, 781251e9).",
        mend="Build the tables of PML4[402] in the master before the first process exists and "
        "copy the entry verbatim (kernel_page_table::build_master_kernel_pml4, "
        "ProcessPageTable::new).",
        see=(
            _MEMORY_KERNEL_PAGE_TABLE,
            _MEMORY_PROCESS_MEMORY,
            _MEMORY_KERNEL_STACK,
        ),
    ),
    "kernel-stack.read-only": Advice(
        mend="Map stack pages PRESENT|WRITABLE|NO_EXECUTE at the leaf and writable at every level.",
        see=(_MEMORY_KERNEL_STACK,),
    ),
    "kernel-stack.user-accessible": Advice(
        mend="Never set USER_ACCESSIBLE in kernel slots; parent flags are OR-ed in by map_to.",
        see=(_MEMORY_KERNEL_STACK,),
    ),
    "kernel-stack.differs": Advice(
        mend="Share the master's PML4[402] entry instead of copying tables.",
        see=(_MEMORY_PROCESS_MEMORY,),
    ),
    "kernel-stack.aliased": Advice(
        mend="Look for a frame freed while mapped, or a slot allocated twice (STACK_BITMAP).",
        see=(
            _MEMORY_KERNEL_STACK,
            _MEMORY_FRAME_ALLOCATOR,
        ),
    ),
    "kernel-stack.guard-mapped": Advice(
        mend="Leave the lowest page of each slot unmapped (kernel_stack::allocate_kernel_stack).",
        see=(_MEMORY_KERNEL_STACK,),
    ),
    "kernel-stack.executable": Advice(
        arises="The leaf was mapped without NO_EXECUTE. Breenix maps its IST stacks that way.",
        mend="Add NO_EXECUTE to the stack's leaf flags (kernel/src/memory/per_cpu_stack.rs).",
        see=(_MEMORY_PER_CPU_STACK,),
    ),
    "ist.unmapped": Advice(
        mend="Map the IST stacks through the master's PML4[403] before the IDT is loaded, and "
        "share that entry with every process.",
        see=(
            _MEMORY_PER_CPU_STACK,
            _GDT,
        ),
    ),
    "idt.gate-missing": Advice(
        arises="Breenix installs gates 0, 1, 3, 6, 8, 12, 13, 14 and 32 to 255 and no others: "
        "#NM, #NP, #MF and the like have nowhere to go. A warning until an event needs the gate; "
        "then it becomes #NP or #GP, and often a double fault.",
        mend="Install a handler for every vector below 32 in init_idt, if only to print and halt.",
        see=(_INTERRUPTS,),
    ),
    "idt.handler-unmapped": Advice(
        mend="Load IDTR on every CPU before anything can fault there. Share the kernel image's "
        "PML4 entry with every process (ProcessPageTable::new), and check the gate's offset "
        "against the handler's symbol.",
        see=(
            _INTERRUPTS,
            _MEMORY_PROCESS_MEMORY,
        ),
    ),
    "gdt.unmapped": Advice(
        see=(_GDT,),
    ),
    "tss.rsp0-invalid": Advice(
        arises="RSP0 was never set (Breenix 3e763f99: gs:[0] used as pointer), or computed from "
        "an RSP instead of taken from the thread (9f67bb79: its own top + 0x3000): the next "
        "interrupt from ring 3 pushes its frame onto nothing.",
        mend="Set RSP0 from the thread's kernel_stack_top at every switch (per_cpu::set_tss_rsp0).",
        see=(
            _GDT,
            _INTERRUPTS_CONTEXT_SWITCH,
            _PER_CPU,
        ),
    ),
    "general-protection": Advice(
        arises="Ring 3 ran an instruction of ring 0 (hlt, cli, mov cr3), a selector is wrong, "
        "iretq popped a bad frame, an MSR was refused, or an SSE operand is not aligned. The 2025 "
        "kernel panics on any #GP, from ring 3 too (fixed 252d7fe5).",
        see=(
            _INTERRUPTS,
            _INTERRUPTS_CONTEXT_SWITCH,
        ),
    ),
    "invalid-opcode": Advice(
        arises="ud2, which Rust compiles unreachable code and aborts to; a jump into data; SSE "
        "with CR4.OSFXSR clear. Breenix's handler halts the CPU, for a fault of ring 3 too.",
        see=(_INTERRUPTS,),
    ),
    "divide-error": Advice(
        arises="div or idiv with a zero divisor. Rust checks its own divisions, so it is asm or "
        "C, or a program in ring 3; Breenix panics for both.",
        see=(_INTERRUPTS,),
    ),
    "exception.unhandled": Advice(
        arises="Breenix installs no gates for 2, 4, 5, 7, 9, 10, 11 and 16 to 21: such an "
        "exception becomes #NP, whose gate is missing too, and so a double fault.",
        see=(_INTERRUPTS,),
    ),
    "cr3.unknown": Advice(
        arises="A constant or stale value was loaded (Breenix 3962addb: assembly kept 0x101000 "
        "after the master had moved), or the process that owned it was freed while it ran "
        "(940bc262: exec freed the PML4 in CR3).",
        mend="Load CR3 from the process's page table or gs:[72] only, and free a PML4 only after "
        "every CPU has left it.",
        see=(
            _INTERRUPTS_CONTEXT_SWITCH,
            _MEMORY_PROCESS_MEMORY,
        ),
    ),
    "cr3.bootloader": Advice(
        arises="switch_to_kernel_page_table loads KERNEL_PAGE_TABLE_FRAME, the bootloader's PML4, "
        "which has neither kernel stacks nor heap (Breenix c0d51521, 2d8d5712: on the first "
        "switch to idle, after the last process has exited): the next push or interrupt faults, "
        "then triple faults.",
        confirm="CR3 is not gs:[72], and pt walk RSP under it is not mapped.",
        mend="Load the master PML4 (gs:[72], MASTER_KERNEL_PML4) instead.",
        see=(
            _MEMORY_PROCESS_MEMORY,
            _INTERRUPTS_CONTEXT_SWITCH,
        ),
    ),
    "cr3.wrong-process": Advice(
        arises="A switch took over registers and not CR3, or left ring 3 to start under the "
        "master (Breenix 79c4818a), or a dead thread went on in another's space (fed61ce9): it "
        "reads and writes somebody else's memory, and a fault kills the wrong process.",
        confirm="CR3 against the page table of the process whose thread gs:[8] names.",
        mend="Write CR3 together with current_thread and RSP0, before interrupts are on again.",
        see=(_INTERRUPTS_CONTEXT_SWITCH,),
    ),
    "process.no-page-table": Advice(
        arises="Its page table was dropped or never set: Process.page_table is None and it "
        "inherits none. Its next turn finds no CR3 to load.",
        confirm="ps; print PROCESS_MANAGER.processes[PID].page_table.",
        mend="Take page_table only when the state is Terminated; set it before the thread is "
        "published to the scheduler.",
        see=(
            "kernel/src/process/process.rs",
            "kernel/src/process/manager.rs",
        ),
    ),
    "shared-table.user": Advice(
        arises="All 512 PML4 entries were copied instead of the kernel's (Breenix 0f2f0b72), or a "
        "user slot was reached through the master (a43d6d48): mapping a page in one process maps "
        "it in the other, and the second map_to fails with PageAlreadyMapped.",
        mend="Give each process fresh tables for its user slots (ProcessPageTable::new).",
        see=(_MEMORY_PROCESS_MEMORY,),
    ),
    "shared-table.conflict": Advice(
        see=(_MEMORY_FRAME_ALLOCATOR,),
    ),
    "table.cycle": Advice(
        mend="Breenix uses no recursive mapping: clear the entry.",
        see=(_MEMORY_KERNEL_PAGE_TABLE,),
    ),
    "table.beyond-ram": Advice(
        see=(_MEMORY_FRAME_ALLOCATOR,),
    ),
    "double-fault": Advice(
        arises="Delivering the first exception raised a second that does not go together with it: "
        "the stack that the frame was to be pushed onto is not mapped (Breenix d90ed3bd: int 0x80 "
        "under a process PML4 without the kernel stack), or the vector has no gate.",
        see=(
            _INTERRUPTS,
            _GDT,
        ),
    ),
    "triple-fault": Advice(
        arises="The #DF stack (IST1) is not mapped under CR3 either, or IDT, GDT or TSS are out "
        "of reach: a CR3 that lacks the kernel (Breenix c0d51521: the bootloader's PML4 loaded on "
        "the way to idle). QEMU would reset; ours is paused, with the registers of the first "
        "fault.",
        see=(
            _INTERRUPTS,
            _INTERRUPTS_CONTEXT_SWITCH,
            _MEMORY_PER_CPU_STACK,
        ),
    ),
    "pic.not-remapped": Advice(
        see=(_INTERRUPTS,),
    ),
    "reboot": Advice(
        see=(_MAIN,),
    ),
    "tss.rsp0-mismatch": Advice(
        arises="A switch set the per-CPU block and not the TSS, or a cached copy was written back "
        "(Breenix 3e763f99, 002a8259): the next interrupt from ring 3 lands on a stack that "
        "belongs to somebody else, and two threads overwrite each other's frames.",
        confirm="The 8 bytes at TR.base + 4 against gs:[16] and the thread's kernel_stack_top.",
        mend="Set both in one place at every switch (per_cpu::update_tss_rsp0).",
        see=(
            _PER_CPU,
            _INTERRUPTS_CONTEXT_SWITCH,
        ),
    ),
    "ist.shared": Advice(
        mend="Give #DF a stack that nothing else uses (per_cpu_stack.rs), and each IST entry its "
        "own.",
        see=(
            _GDT,
            _MEMORY_PER_CPU_STACK,
        ),
    ),
    "table.freed": Advice(
        arises="A table was given back while an entry still names it (Breenix 2e13e9a2: "
        "cleanup_for_exec freed shared kernel tables; 940bc262: exec freed the PML4 in CR3). The "
        "next owner of the frame overwrites the mappings.",
        mend="Clear the entry, flush, and only then deallocate_frame; never free tables of kernel "
        "slots.",
        see=(
            _MEMORY_FRAME_ALLOCATOR,
            _MEMORY_PROCESS_MEMORY,
        ),
    ),
    "frame.free-but-mapped": Advice(
        arises="A frame was given back while a leaf still maps it (Breenix 41c68458: an untracked "
        "frame freed by a copy-on-write decref), or a page was mapped to a frame that was never "
        "allocated.",
        mend="Unmap before deallocate_frame, and count references of shared frames.",
        see=(
            _MEMORY_FRAME_ALLOCATOR,
            _MEMORY_PROCESS_MEMORY,
        ),
    ),
    "frame.double-allocated": Advice(
        confirm="print FREE_FRAMES; frames FRAME.",
        mend="Return a frame through its lease only (FrameLease); see the FRAME_RETURN_REFUSED_* "
        "counters.",
        see=(_MEMORY_FRAME_ALLOCATOR,),
    ),
    "frames.exhausted": Advice(
        arises="All usable memory is given out. In 2025 nothing ever comes back (deallocate_frame "
        "does nothing), so that every process costs frames for good.",
        see=(_MEMORY_FRAME_ALLOCATOR,),
    ),
    "frame.beyond-ram": Advice(
        arises="An address was taken for a frame: mapping a kernel region with physical == "
        "virtual (Breenix 1dc817d7, 12d1b7de), or an entry that was overwritten. What is written "
        "there is lost and what is read is not what was written. Memory-mapped devices (below 4 "
        "GiB, or mapped uncached) and direct maps that are larger than RAM are not meant.",
        mend="Take frames from allocate_frame only; map devices with NO_CACHE (map_mmio).",
        see=(
            _MEMORY_KERNEL_PAGE_TABLE,
            _MEMORY_FRAME_ALLOCATOR,
        ),
    ),
    "frame.maps-page-table": Advice(
        mend="Free a table only after its entry is cleared (ProcessPageTable::drop), and never "
        "map a frame that the allocator did not just give.",
        see=(
            _MEMORY_PROCESS_MEMORY,
            _MEMORY_FRAME_ALLOCATOR,
        ),
    ),
    "frame.mapped-twice": Advice(
        mend="Look for a frame given out twice, a leaf copied between page tables, or a fork that "
        "left WRITABLE set (COW_FLAG is bit 9).",
        see=(
            _MEMORY_PROCESS_MEMORY,
            _MEMORY_FRAME_ALLOCATOR,
        ),
    ),
    "heap.exhausted": Advice(
        arises="The 2025 heap bumps a pointer through 1 MiB and starts over only when nothing is "
        "left allocated, so that every block costs for good (Breenix 42d27c04, d84d155c); a list "
        "heap runs out by leaks or fragments. The next allocation panics with `allocation error`.",
        mend="Raise HEAP_SIZE, or find who keeps allocating (heap.leak between two stops).",
        see=(_MEMORY_HEAP,),
    ),
    "heap.corrupt": Advice(
        confirm="print ALLOCATOR; heap lists the holes up to the broken one.",
        see=(_MEMORY_HEAP,),
    ),
    "heap.uninitialised": Advice(
        arises="The heap's bounds are 0 although threads or processes exist, or an allocation "
        "failed: heap::init was not called, or later than its first user.",
        confirm="print ALLOCATOR: the bounds are 0.",
        mend="Call memory::init before anything allocates.",
        see=(
            _MEMORY_HEAP,
            _MEMORY_MOD,
        ),
    ),
    "kernel-slot.missing": Advice(
        arises="ProcessPageTable::new copied the master before the slot was filled, or skipped it "
        "(heap PML4[136]: Breenix 5124c528).",
        mend="Fill every kernel slot of the master before the first process is created, and copy "
        "all of them in ProcessPageTable::new.",
        see=(
            _MEMORY_PROCESS_MEMORY,
            _MEMORY_KERNEL_PAGE_TABLE,
        ),
    ),
    "kernel-slot.diverged": Advice(
        mend="Change kernel mappings through the master's tables only (map_kernel_page) and copy "
        "PML4 entries verbatim.",
        see=(
            _MEMORY_PROCESS_MEMORY,
            _MEMORY_KERNEL_PAGE_TABLE,
        ),
    ),
    "kernel-slot.aliased": Advice(
        arises="The entry of one region was copied into another's slot (402 and 403: Breenix "
        "7b6bc74c, 5124c528): mapping a page of one region makes it appear in the other.",
        mend="Give each region its own PDPT in build_master_kernel_pml4; it asserts 402 != 403.",
        see=(_MEMORY_KERNEL_PAGE_TABLE,),
    ),
    "kernel-slot.user-accessible": Advice(
        arises="U is set in the PML4 entry, so that nothing but the lower levels keeps ring 3 "
        "out; map_to ORs U into the parents when a user page is mapped below them.",
        mend="Clear USER_ACCESSIBLE at the PML4 entry of every kernel slot.",
        see=(_MEMORY_PROCESS_MEMORY,),
    ),
    "kernel-slot.read-only": Advice(
        see=(_MEMORY_PROCESS_MEMORY,),
    ),
    "map.already-mapped": Advice(
        arises="The address is taken in this space (a second map of the same page, mmap_hint "
        "reset in a fork child: Breenix a963a046), or a table on the way is shared with another "
        "space that mapped there first (0f2f0b72: all 512 PML4 entries copied; a43d6d48: user "
        "stacks through the master).",
        mend="If a table is shared that should not be, give the process its own "
        "(ProcessPageTable::new); else choose another address, or unmap first.",
        see=(
            _MEMORY_PROCESS_MEMORY,
            _MEMORY_KERNEL_PAGE_TABLE,
        ),
    ),
    "kernel-stack.overflow": Advice(
        arises="RSP lies below the bottom of its stack, where the guard page should have stopped "
        "it: deep recursion, a large local array, or formatting in a fault path (Breenix "
        "3e763f99: debug logging in copy_to_user) on a stack whose guard is mapped or was jumped "
        "over.",
        see=(_MEMORY_KERNEL_STACK,),
    ),
    "kernel-stack.foreign": Advice(
        arises="A switch left RSP on the old thread's stack (Breenix 8a7ecb7e: idle returned to "
        "current_rsp + 256, 55ab7425: idle on a dying thread's or an IST stack): when that thread "
        "runs again, both write over each other.",
        confirm="RSP against gs:[16] and the thread's kernel_stack_top.",
        mend="Return to a thread with its own kernel_stack_top in the iret frame "
        "(setup_idle_return, setup_kernel_thread_return).",
        see=(_INTERRUPTS_CONTEXT_SWITCH,),
    ),
    "kernel-stack.nearly-full": Advice(
        see=(_MEMORY_KERNEL_STACK,),
    ),
    "thread.desync": Advice(
        arises="A switch was begun and not carried through: schedule() changed current_thread and "
        "the return path kept the old thread (Breenix f59bccd5, 4aec4006, a1cf4ee2). Registers "
        "are then saved into the wrong thread.",
        confirm="print SCHEDULER.current_thread against the id of the thread at gs:[8].",
        mend="Decide before schedule() whether the switch can be made, or roll it back "
        "(abort_dispatch_and_resume).",
        see=(
            _INTERRUPTS_CONTEXT_SWITCH,
            _TASK_SCHEDULER,
            _PER_CPU,
        ),
    ),
    "context.privilege-mismatch": Advice(
        arises="A kernel frame was saved as a user context or the reverse (Breenix 3a4b33a8): the "
        "CPU is sent to kernel code in ring 3 (#PF, error code 0x15), or to a process's code in "
        "ring 0, with all its rights.",
        mend="Save a context together with where it came from, and check cs before it is loaded "
        "(saved_context_is_kernel_frame).",
        see=(
            _INTERRUPTS_CONTEXT_SWITCH,
            "kernel/src/task/process_context.rs",
        ),
    ),
    "frames.leak": Advice(
        arises="Between two stops frames were given out that are neither mapped nor a table of "
        "any space that lives: page tables of dead processes (Breenix #470: d7d08595, 298fc78f), "
        "kernel stacks of dead threads (#579), DMA buffers never returned. In 2025 every exit "
        "does this, because deallocate_frame does nothing.",
        mend="Return every frame of a ProcessPageTable and KernelStack when it is dropped.",
        see=(
            _MEMORY_FRAME_ALLOCATOR,
            _MEMORY_PROCESS_MEMORY,
        ),
    ),
    "heap.leak": Advice(
        arises="Between two stops blocks were allocated and not given back, while no process and "
        "no thread was added: a list that only grows, a Box::leak, a cache without a bound.",
        mend="Watch the allocator between the two markers (checkpoint at __rust_alloc).",
        see=(_MEMORY_HEAP,),
    ),
    "panic": Advice(
        arises="A Rust panic: an assertion, an unwrap of None, or a handler that gives up "
        "(`EXCEPTION: DOUBLE FAULT`). The panic handler prints `KERNEL PANIC:` and halts, or "
        "leaves QEMU through isa-debug-exit with feature testing.",
        see=(_MAIN,),
    ),
    "hang": Advice(
        arises="Every CPU spins or halts with interrupts off: a lock taken twice or never "
        "released (Breenix #609, the logger in a context switch), or a fault handler that ended "
        "in `hlt`.",
        see=(
            _INTERRUPTS,
            _TASK_SCHEDULER,
        ),
    ),
    "unexpected-exit": Advice(
        arises="The guest wrote isa-debug-exit (port 0xf4): Breenix's panic handler with feature "
        "testing exits 35, a missing test disk too. Or it switched the machine off by ACPI "
        "(status 0).",
        see=("kernel/src/lib.rs",),
    ),
    "tests-failed": Advice(
        arises="The kernel says so itself: `TEST RUNNER: FAILED`, a `TEST_TALLY` with programs "
        "that exited nonzero, a contract or boot test that failed, or its table of boot-test "
        "results.",
        see=("kernel/src/syscall/handlers.rs", "kernel/src/contract_runner.rs"),
    ),
    "log.error": Advice(
        arises="A line of level ERROR. Breenix prints `INVALID timer_interrupt_entry address` and "
        "`INVALID syscall_entry address` at every boot: harmless, and not counted.",
    ),
}
