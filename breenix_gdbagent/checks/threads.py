"""Threads against the per-CPU block, and saved registers against the ring they return to."""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.addresses import VirtAddr, counted, hex64
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.checks.spaces import NOBODYS
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.percpu import PerCpu
from breenix_gdbagent.kernel.processes import Process
from breenix_gdbagent.kernel.running import running, settled
from breenix_gdbagent.kernel.threads import Thread
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.cpu import Cpu

_SWITCH = "kernel/src/interrupts/context_switch.rs"

DESYNC = declare(
    "thread.desync",
    "error",
    "scheduler and per-CPU block disagree on who runs",
    arises="A switch was begun and not carried through: schedule() changed current_thread and the "
    "return path kept the old thread (Breenix f59bccd5, 4aec4006, a1cf4ee2). Registers are then "
    "saved into the wrong thread.",
    confirm="print SCHEDULER.current_thread against the id of the thread at gs:[8].",
    mend="Decide before schedule() whether the switch can be made, or roll it back "
    "(abort_dispatch_and_resume).",
    see=(_SWITCH, "kernel/src/task/scheduler.rs", "kernel/src/per_cpu.rs"),
)
PRIVILEGE = declare(
    "context.privilege-mismatch",
    "error",
    "a context returns to code of the other ring",
    arises="A kernel frame was saved as a user context or the reverse (Breenix 3a4b33a8): the CPU "
    "is sent to kernel code in ring 3 (#PF, error code 0x15), or to a process's code in ring 0, "
    "with all its rights.",
    confirm="print the thread's context: cs (bits 0-1 the ring) against rip.",
    mend="Save a context together with where it came from, and check cs before it is loaded "
    "(saved_context_is_kernel_frame).",
    see=(_SWITCH, "kernel/src/task/process_context.rs"),
)


def check_current(kernel: Kernel) -> Iterator[Finding]:
    """Whom the scheduler has on each CPU, against gs:[8]."""
    if not kernel.is_breenix:
        raise NotChecked("no Breenix per-CPU block")
    scheduler = kernel.books.scheduler
    looked = False
    for cpu in kernel.stop.cpus:
        block = kernel.percpu_of(cpu)
        if block is None or not block.current_thread or not settled(kernel, cpu):
            continue
        looked = True
        wanted = scheduler.current_of(cpu.index)
        there = scheduler.thread_at(block.current_thread)
        if wanted is None or (there is not None and there.id == wanted):
            continue
        yield _desync(kernel, cpu, block, wanted, there)
    if not looked:
        raise NotChecked("no CPU is surely outside a switch of threads")
    if scheduler.locked:
        raise NotChecked("the scheduler's lock is taken: its state may be half changed")


def _desync(kernel: Kernel, cpu: Cpu, block: PerCpu, wanted: int, there: Thread | None) -> Finding:
    scheduled = kernel.books.scheduler.thread(wanted)
    has = f"thread {wanted}" + (f" ({scheduled.name})" if scheduled is not None else "")
    own = (
        f"thread {there.id} ({there.name})"
        if there is not None
        else f"no thread of the scheduler's ({hex64(block.current_thread)})"
    )
    return Finding(
        DESYNC,
        f"the scheduler has {has} on CPU {cpu.index}, gs:[8] names {own}",
        "scheduler",
        {
            "cpu": cpu.index,
            "scheduler_current": wanted,
            "scheduler_name": None if scheduled is None else scheduled.name,
            "percpu_current": hex64(block.current_thread),
            "percpu_id": None if there is None else there.id,
            "percpu_name": None if there is None else there.name,
        },
        Where(va=block.base + 8),
        fix=DESYNC.mend,
    )


def check_contexts(kernel: Kernel) -> Iterator[Finding]:
    """Saved registers of every thread, and the frame that the stop's exception came from."""
    if not kernel.is_breenix:
        raise NotChecked("no Breenix per-CPU block")
    yield from _interrupted(kernel)
    scheduler, table = kernel.books.scheduler, kernel.books.processes
    unscheduled, half_saved = 0, ""
    for process in table.processes:
        thread = process.thread
        if thread is None or not process.alive or not thread.alive:
            continue
        # Only what will be loaded again is judged: the boot tests of 2026 hold rows of threads that
        # nobody ever runs. Whether one has started the scheduler's copy says.
        scheduled = scheduler.thread(thread.id)
        if scheduled is None:
            unscheduled += 1
            continue
        if not scheduled.alive:
            continue
        fresh = scheduled.has_started is False
        wrong = _wrong_entry(kernel, thread, process) if fresh else _wrong(kernel, thread, process)
        if wrong and table.locked:
            half_saved = f"the process manager's lock is taken: {thread.name}'s may be half saved"
        elif wrong:
            yield _mismatch(kernel, thread, process, wrong)
    if half_saved:
        raise NotChecked(half_saved)
    if unscheduled:
        raise NotChecked(f"{counted(unscheduled, 'process', 'processes')} {NOBODYS}")


def _interrupted(kernel: Kernel) -> Iterator[Finding]:
    """An exception of ring 3 whose RIP is in the kernel's image: the kernel resumed it there, or
    the process jumped there by itself. Nothing that is left tells the two apart."""
    here = running(kernel, kernel.stop.cpu)
    image = kernel.stop.image
    if here is None or not here.interrupted or image is None:
        return
    if here.cpl == 3 and image.holds(here.rip):
        facts: dict[str, Json] = {
            "rip": hex64(here.rip),
            "symbol": kernel.symbol(here.rip),
            "cs": hex64(here.cs),
            "rsp": hex64(here.rsp),
        }
        yield Finding(
            PRIVILEGE,
            f"ring 3 (cs {hex64(here.cs)}) stood at {kernel.describe(here.rip)}, in the kernel's "
            "own code: a kernel frame was resumed in ring 3, or a process jumped there",
            kernel.thread_name(here.cpu) or "frame",
            facts,
            Where(here.cpu.root, here.rip),
            confidence="likely",
            fix=PRIVILEGE.mend,
        )


def _wrong(kernel: Kernel, thread: Thread, process: Process) -> str:
    """Why a saved context cannot be meant; empty when it can.

    A user thread may be saved in ring 0 (since 2026, when it was interrupted in a system call): cs
    and rip have to agree, whatever ring it is.
    """
    context = thread.context
    if not context.rip or not context.cs:
        return ""  # nothing was saved yet
    kernels = _is_kernels(kernel, process, context.rip)
    if kernels is None:
        return ""
    if context.cpl == 3 and kernels:
        return f"cs {hex64(context.cs)} is of ring 3, and rip is the kernel's"
    if context.cpl == 0 and not kernels:
        return f"cs {hex64(context.cs)} is of ring 0, and rip is the process's"
    return ""


def _wrong_entry(kernel: Kernel, thread: Thread, process: Process) -> str:
    """Why a user thread that never ran cannot start: its first frame takes rip from the context and
    everything else as ring 3 has it (context_switch.rs, setup_first_userspace_entry)."""
    if thread.user and thread.context.rip and _is_kernels(kernel, process, thread.context.rip):
        return "it starts in ring 3, and rip is the kernel's"
    return ""


def _is_kernels(kernel: Kernel, process: Process, rip: VirtAddr) -> bool | None:
    """Whether an address is the kernel's; None when it is mapped for nobody."""
    image, root = kernel.stop.image, process.effective_root
    if image is not None and image.holds(rip):
        return True
    if root is None:
        return None
    walk = kernel.walk(root, rip)
    return None if walk.effective is None else not walk.effective.u


def _mismatch(kernel: Kernel, thread: Thread, process: Process, wrong: str) -> Finding:
    context = thread.context
    return Finding(
        PRIVILEGE,
        f"the saved context of {thread.name} (pid {process.pid}, thread {thread.id}) returns to "
        f"{kernel.describe(context.rip)}: {wrong}",
        thread.name,
        {
            "pid": process.pid,
            "thread": thread.id,
            "copy": thread.copy,
            "state": thread.state,
            "rip": hex64(context.rip),
            "cs": hex64(context.cs),
            "rsp": hex64(context.rsp),
            "blocked_in_syscall": thread.blocked_in_syscall,
        },
        Where(process.effective_root, context.rip),
        fix=PRIVILEGE.mend,
    )
