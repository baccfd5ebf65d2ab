"""Which address space each CPU is in, against who runs there; processes without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.addresses import Hex, PhysAddr, VirtAddr
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, SPREAD, Facts, Place
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.checks.reasons import FrameNotRead, NotRead, ProcessesUnscheduled, State
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.cr3_loads import last_load
from breenix_gdbagent.kernel.processes import Process
from breenix_gdbagent.kernel.running import Running, by_registers, on_own_stack, running, settled
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.control import CR3_ADDRESS

UNKNOWN = declare(
    "cr3.unknown",
    "error",
    "CR3 names a page table that nobody owns",
    arises="A constant or stale value was loaded, or the process that owned it was freed while it "
    "ran.",
    confirm="pt roots does not list it as the master's or a process's.",
    mend="Load CR3 from the process's page table or the kernel's own only, and free a top-level "
    "table only after every CPU has left it.",
)
BOOTLOADER = declare(
    "cr3.bootloader",
    "error",
    "a CPU is back on the bootloader's page tables",
    arises="The bootloader's top-level table was loaded again, which has neither kernel stacks "
    "nor heap: the next push or interrupt faults, then triple faults.",
    confirm="CR3 is not the kernel's own root, and pt walk RSP under it is not mapped.",
    mend="Load the kernel's own root instead.",
)
WRONG_PROCESS = declare(
    "cr3.wrong-process",
    "error",
    "a process runs in an address space that is not its own",
    arises="A switch took over registers and not CR3, or left ring 3 to start under the master, "
    "or a dead thread went on in another's space: it reads and writes somebody else's memory, and "
    "a fault kills the wrong process.",
    confirm="CR3 against the page table of the process whose thread the per-CPU block names.",
    mend="Write CR3 together with the current thread and RSP0, before interrupts are on again.",
)
NO_PAGE_TABLE = declare(
    "process.no-page-table",
    "error",
    "a process that is not dead has no page table",
    arises="Its page table was dropped or never set, and it inherits none. Its next turn finds no "
    "CR3 to load.",
    confirm="ps; print the process's own record.",
    mend="Take the page table away only when the process is dead; set it before its thread is "
    "published to the scheduler.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSpace(Facts):
    """The root in a CPU's CR3, whose that is, what runs there, and what the per-CPU block has."""

    cpu: int
    cr3: PhysAddr
    role: str
    process: str | None
    pid: int | None
    kernel_cr3: Hex | None
    saved_process_cr3: Hex | None
    rip: VirtAddr
    symbol: str | None
    ring: int
    thread: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Facts):
    """The last ``mov cr3`` that the CPU's frames show, and who called its function."""

    mov_cr3: Place
    called_by: Annotated[Place | None, IF_KNOWN]


@dataclass(frozen=True, slots=True, kw_only=True)
class NobodysFacts(Facts):
    """`listed`: whether the kernel's own list of processes could be read."""

    at: Annotated[LoadedSpace, SPREAD]
    load: Annotated[Load | None, SPREAD]
    listed: Annotated[bool, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFacts(Facts):
    """A CPU on the bootloader's tables, and the master's root."""

    at: Annotated[LoadedSpace, SPREAD]
    load: Annotated[Load | None, SPREAD]
    master: Annotated[PhysAddr, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class NextFacts(Facts):
    """A CPU that is about to load a root which is nobody's or the bootloader's."""

    at: Annotated[LoadedSpace, SPREAD]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner(Facts):
    """The process that runs, and its own root."""

    owner: str
    owner_pid: int
    owner_root: PhysAddr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongSpaceFacts(Facts):
    """A CPU in another space than the one it should be in (`owner`); without an owner it is ring 3
    in the master's. `space` is the label of the one in CR3."""

    at: Annotated[LoadedSpace, SPREAD]
    owner: Annotated[Owner | None, SPREAD]
    space: Annotated[str, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTableFacts(Facts):
    """A process without a page table."""

    pid: int
    state: str
    thread: int | None
    old_roots: tuple[PhysAddr, ...]


def check_cr3(kernel: Kernel) -> Iterator[Finding]:
    """CR3 of every CPU that has paging on, and the roots the per-CPU block is about to load."""
    if kernel.master is None:
        # Before the master there is nothing but the bootloader's tables to stand on.
        raise NotChecked(NotRead(kernel.no_master))
    for cpu in kernel.stop.cpus:
        interrupted, space = running(kernel, cpu), kernel.space_of(cpu.root)
        here = interrupted or by_registers(cpu)
        if cpu.paging is None or here is None or space is None:
            continue
        if interrupted is None and space.role not in ("unknown", "boot"):
            raise NotChecked(FrameNotRead(cpu.index))
        if space.role == "unknown":
            yield _nobody(kernel, here, space)
        elif space.role == "boot":
            yield _bootloader(kernel, here, space)
        else:
            yield from _whose(kernel, here, space)
        yield from _next(kernel, here)


def _loaded(kernel: Kernel, here: Running, space: Space) -> LoadedSpace:
    block = kernel.percpu_of(here.cpu)
    return LoadedSpace(
        cpu=here.cpu.index,
        cr3=space.root,
        role=space.role,
        process=space.name,
        pid=space.pid,
        kernel_cr3=None if block is None else Hex(block.kernel_cr3),
        saved_process_cr3=None if block is None else Hex(block.saved_process_cr3),
        rip=here.rip,
        symbol=kernel.symbol(here.rip),
        ring=here.cpl,
        thread=kernel.thread_name(here.cpu),
    )


def _load(kernel: Kernel, here: Running) -> Load | None:
    found = last_load(kernel, here.cpu)
    if found is None:
        return None
    at, caller = found
    by = None if caller is None else Place(int(caller.lookup), kernel.symbol(caller.lookup))
    return Load(mov_cr3=Place(at, kernel.symbol(at)), called_by=by)


def _nobody(kernel: Kernel, here: Running, space: Space) -> Finding:
    listed = kernel.listed_processes is not None
    load = _load(kernel, here)
    facts = NobodysFacts(at=_loaded(kernel, here, space), load=load, listed=listed)
    return Finding(UNKNOWN, facts.at.thread or "CR3", facts, Where(space.root))


def _bootloader(kernel: Kernel, here: Running, space: Space) -> Finding:
    assert kernel.master is not None
    load, at = _load(kernel, here), _loaded(kernel, here, space)
    facts = BootFacts(at=at, load=load, master=kernel.master.root)
    return Finding(BOOTLOADER, "CR3", facts, Where(space.root))


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
        table = kernel.structures.processes
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
    owner = None
    if process is not None:
        owner = Owner(owner=process.name, owner_pid=process.pid, owner_root=process.effective_root)
    facts = WrongSpaceFacts(at=_loaded(kernel, here, space), owner=owner, space=space.label)
    subject = "master" if process is None else process.name
    return Finding(WRONG_PROCESS, subject, facts, Where(space.root))


def _next(kernel: Kernel, here: Running) -> Iterator[Finding]:
    """What is about to be loaded (gs:[64]) is the bootloader's, or nobody's."""
    block = kernel.percpu_of(here.cpu)
    if block is None or not block.next_cr3 & CR3_ADDRESS:
        return
    space = kernel.space_of(block.next_cr3)
    if space is None or space.root == here.cpu.root or space.role not in ("boot", "unknown"):
        return
    code = BOOTLOADER if space.role == "boot" else UNKNOWN
    facts = NextFacts(at=_loaded(kernel, here, space))
    yield Finding(code, "next_cr3", facts, Where(space.root))


def check_processes(kernel: Kernel) -> Iterator[Finding]:
    """Every process that the scheduler may run has an address space. Stands on both tables."""
    table, scheduler = kernel.structures.processes, kernel.structures.scheduler
    if table.locked:
        raise NotChecked(State.PROCESS_MANAGER_LOCKED)
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
        raise NotChecked(ProcessesUnscheduled(unscheduled))


def _without(process: Process) -> Finding:
    facts = NoTableFacts(
        pid=process.pid,
        state=process.state,
        thread=None if process.thread is None else process.thread.id,
        old_roots=tuple(process.old_roots),
    )
    return Finding(NO_PAGE_TABLE, process.name, facts)
