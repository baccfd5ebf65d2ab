"""Which address space each CPU stands in, against who runs there; processes without one."""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.processes import Process
from breenix_gdbagent.kernel.running import Running, on_own_stack, running, settled, standing
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.cpu import CR3_ADDRESS

_SWITCH = "kernel/src/interrupts/context_switch.rs"
_PROCESS = "kernel/src/memory/process_memory.rs"

UNKNOWN = declare(
    "cr3.unknown",
    "error",
    "CR3 names a page table that nobody owns",
    arises="A constant or stale value was loaded (Breenix 3962addb: assembly kept 0x101000 after "
    "the master had moved), or the process that owned it was freed while it ran (940bc262: exec "
    "freed the PML4 in CR3).",
    confirm="pt roots does not list it as the master's or a process's.",
    mend="Load CR3 from the process's page table or gs:[72] only, and free a PML4 only after every "
    "CPU has left it.",
    see=(_SWITCH, _PROCESS),
)
BOOTLOADER = declare(
    "cr3.bootloader",
    "error",
    "a CPU is back on the bootloader's page tables",
    arises="switch_to_kernel_page_table loads KERNEL_PAGE_TABLE_FRAME, the bootloader's PML4, "
    "which has neither kernel stacks nor heap (Breenix c0d51521, 2d8d5712: on the first switch to "
    "idle, after the last process has exited): the next push or interrupt faults, then triple "
    "faults.",
    confirm="CR3 is not gs:[72], and pt walk RSP under it is not mapped.",
    mend="Load the master PML4 (gs:[72], MASTER_KERNEL_PML4) instead.",
    see=(_PROCESS, _SWITCH),
)
WRONG_PROCESS = declare(
    "cr3.wrong-process",
    "error",
    "a process runs in an address space that is not its own",
    arises="A switch took over registers and not CR3, or left ring 3 to start under the master "
    "(Breenix 79c4818a), or a dead thread went on in another's space (fed61ce9): it reads and "
    "writes somebody else's memory, and a fault kills the wrong process.",
    confirm="CR3 against the page table of the process whose thread gs:[8] names.",
    mend="Write CR3 together with current_thread and RSP0, before interrupts are on again.",
    see=(_SWITCH,),
)
NO_PAGE_TABLE = declare(
    "process.no-page-table",
    "error",
    "a process that is not dead has no page table",
    arises="Its page table was dropped or never set: Process.page_table is None and it inherits "
    "none. Its next turn finds no CR3 to load.",
    confirm="ps; print PROCESS_MANAGER.processes[PID].page_table.",
    mend="Take page_table only when the state is Terminated; set it before the thread is published "
    "to the scheduler.",
    see=("kernel/src/process/process.rs", "kernel/src/process/manager.rs"),
)


def check_cr3(kernel: Kernel) -> Iterator[Finding]:
    """CR3 of every CPU that has paging on, and the roots the per-CPU block is about to load."""
    if kernel.master is None:
        # Before the master there is nothing but the bootloader's tables to stand on.
        raise NotChecked(kernel.no_master)
    for cpu in kernel.stop.cpus:
        interrupted, space = running(kernel, cpu), kernel.space_of(cpu.root)
        here = interrupted or standing(cpu)
        if cpu.paging is None or here is None or space is None:
            continue
        if interrupted is None and space.role not in ("unknown", "boot"):
            raise NotChecked(f"the frame that CPU {cpu.index} was interrupted with cannot be read")
        if space.role == "unknown":
            yield _nobody(kernel, here, space)
        elif space.role == "boot":
            yield _bootloader(kernel, here, space)
        else:
            yield from _whose(kernel, here, space)
        yield from _next(kernel, here)


def _facts(kernel: Kernel, here: Running, space: Space) -> dict[str, Json]:
    block = kernel.percpu_of(here.cpu)
    return {
        "cpu": here.cpu.index,
        "cr3": hex64(space.root),
        "role": space.role,
        "process": space.name,
        "pid": space.pid,
        "kernel_cr3": None if block is None else hex64(block.kernel_cr3),
        "saved_process_cr3": None if block is None else hex64(block.saved_process_cr3),
        "rip": hex64(here.rip),
        "symbol": kernel.symbol(here.rip),
        "ring": here.cpl,
        "thread": kernel.thread_name(here.cpu),
    }


def _nobody(kernel: Kernel, here: Running, space: Space) -> Finding:
    known = (
        "its kernel half is not this kernel's"
        if kernel.listed_processes is None
        else "no process has it, and no dead one waits to give it back"
    )
    return Finding(
        UNKNOWN,
        f"CR3 of CPU {here.cpu.index} is {hex64(space.root)}: {known}",
        kernel.thread_name(here.cpu) or "CR3",
        _facts(kernel, here, space),
        Where(space.root),
        fix=UNKNOWN.mend,
    )


def _bootloader(kernel: Kernel, here: Running, space: Space) -> Finding:
    master = kernel.master
    assert master is not None
    return Finding(
        BOOTLOADER,
        f"CR3 of CPU {here.cpu.index} is {hex64(space.root)}, the bootloader's PML4; the master is "
        f"{hex64(master.root)} (in {kernel.describe(here.rip)})",
        "CR3",
        _facts(kernel, here, space),
        Where(space.root),
        fix=BOOTLOADER.mend,
    )


def _whose(kernel: Kernel, here: Running, space: Space) -> Iterator[Finding]:
    """A thread of a process in the master's or another process's space."""
    if here.cpl == 3 and space.role == "master":
        yield _wrong(kernel, here, space, None)
        return
    thread = kernel.thread_of(here.cpu)
    if thread is None or not thread.user or not settled(kernel, here.cpu):
        return
    if here.cpl == 0 and not on_own_stack(kernel, here):
        return
    try:
        table = kernel.books.processes
    except ReadError:
        return
    process = table.by_thread(thread.id)
    if process is None or not process.alive or process.effective_root is None:
        return
    right = process.effective_root
    # In ring 0 the kernel may work in the master, and on behalf of a process whose new page table
    # (exec) is not in CR3 yet.
    if space.root == right or (here.cpl == 0 and space.role == "master"):
        return
    if space.root in process.old_roots:
        return
    yield _wrong(kernel, here, space, process)


def _wrong(kernel: Kernel, here: Running, space: Space, process: Process | None) -> Finding:
    facts = _facts(kernel, here, space)
    if process is None:
        said = f"CPU {here.cpu.index} is in ring 3 with the master PML4 {hex64(space.root)} in CR3"
        subject = "master"
    else:
        right = process.effective_root
        facts |= {"owner": process.name, "owner_pid": process.pid}
        facts["owner_root"] = None if right is None else hex64(right)
        said = (
            f"CPU {here.cpu.index} runs {process.name} (pid {process.pid}), whose page table is "
            f"{hex64(right or 0)}, with {hex64(space.root)} of {space.label} in CR3"
        )
        subject = process.name
    return Finding(
        WRONG_PROCESS,
        f"{said} (in {kernel.describe(here.rip)})",
        subject,
        facts,
        Where(space.root),
        fix=WRONG_PROCESS.mend,
    )


def _next(kernel: Kernel, here: Running) -> Iterator[Finding]:
    """What is about to be loaded (gs:[64]) is the bootloader's, or nobody's."""
    block = kernel.percpu_of(here.cpu)
    if block is None or not block.next_cr3 & CR3_ADDRESS:
        return
    space = kernel.space_of(block.next_cr3)
    if space is None or space.root == here.cpu.root or space.role not in ("boot", "unknown"):
        return
    code = BOOTLOADER if space.role == "boot" else UNKNOWN
    whose = "the bootloader's PML4" if space.role == "boot" else "a page table that nobody owns"
    yield Finding(
        code,
        f"CPU {here.cpu.index} is about to load {hex64(space.root)}, {whose}, into CR3 (gs:[64])",
        "next_cr3",
        _facts(kernel, here, space),
        Where(space.root),
        fix=code.mend,
    )


NOBODYS = "have a thread that the scheduler does not have: not held to anything"


def check_processes(kernel: Kernel) -> Iterator[Finding]:
    """Every process that the scheduler may run has an address space. Stands on both tables."""
    table, scheduler = kernel.books.processes, kernel.books.scheduler
    if table.locked:
        raise NotChecked("the process manager's lock is taken: a process may be half made")
    unscheduled = 0
    for process in table.processes:
        # Creating: it is set before the process is published (manager.rs, create_process).
        if not process.alive or process.state == "Creating" or process.thread is None:
            continue
        if process.effective_root is not None:
            continue
        # A row whose thread the scheduler never got cannot be run (the boot tests of 2026 insert
        # such rows: teardown.rs, clone_admission_oracle_test).
        scheduled = scheduler.thread(process.thread.id)
        if scheduled is None:
            unscheduled += 1
        elif scheduled.alive:
            yield _without(process)
    if unscheduled:
        raise NotChecked(f"{counted(unscheduled, 'process', 'processes')} {NOBODYS}")


def _without(process: Process) -> Finding:
    return Finding(
        NO_PAGE_TABLE,
        f"{process.name} (pid {process.pid}) is {process.state} and has no page table",
        process.name,
        {
            "pid": process.pid,
            "state": process.state,
            "thread": None if process.thread is None else process.thread.id,
            "old_roots": [hex64(root) for root in process.old_roots],
        },
        fix=NO_PAGE_TABLE.mend,
    )
