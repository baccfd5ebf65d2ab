"""Threads against the per-CPU block, and saved registers against the ring they return to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from breenix_gdbagent.addresses import Hex, VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.checks.facts import ASIDE, Facts
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.checks.reasons import HalfSaved, ProcessesUnscheduled, State
from breenix_gdbagent.kernel.percpu import PerCpu
from breenix_gdbagent.kernel.processes import Process
from breenix_gdbagent.kernel.running import running, settled
from breenix_gdbagent.kernel.threads import Thread
from breenix_gdbagent.kernel.view import Kernel

DESYNC = declare(
    "thread.desync",
    "error",
    "scheduler and per-CPU block disagree on who runs",
    arises="A switch was begun and not carried through: the scheduler changed the current thread "
    "and the return path kept the old one. Registers are then saved into the wrong thread.",
    confirm="print the scheduler's current thread against that of the per-CPU block.",
    mend="Decide whether the switch can be made before the scheduler changes anything, or roll it "
    "back.",
)
DEAD_RUNNING = declare(
    "thread.dead-running",
    "error",
    "a CPU runs a thread that is over",
    arises="The thread was marked Terminated and the CPU went back to it: an exit path that "
    "returned, or a handler that ended a process and forgot to switch.",
    confirm="threads shows its state; the CPU came from ring 3 with it as the current thread.",
    mend="Switch away before anything can return to a thread that was marked Terminated.",
)
TWO_CPUS = declare(
    "thread.two-cpus",
    "error",
    "two CPUs run one thread",
    arises="A thread was put into the ready queue, or taken out of it by another CPU, while it "
    "still ran: both run on its stack, and its registers are saved twice.",
    confirm="percpu on each CPU (cpu N): the same thread is current.",
    mend="Take a thread out of the queue and mark whose it is under one lock, and let no other CPU "
    "have it before its registers are saved and its stack is left.",
)
LOST_WAKE_UP = declare(
    "thread.lost-wake-up",
    "error",
    "a thread is ready to run, and no ready queue has it",
    arises="It was woken while it was on its way to sleep, and the second half of that took it out "
    "of the queue again; or its state was changed and it was not put in. It never runs again.",
    confirm="threads shows it as Ready; no ready queue of the scheduler has its id, and it is no "
    "CPU's current thread.",
    mend="Change the state and the queue of a thread together, under the scheduler's lock, and "
    "look for a wake-up once more before the CPU leaves a thread that wants to sleep.",
)
PRIVILEGE = declare(
    "context.privilege-mismatch",
    "error",
    "a context returns to code of the other ring",
    arises="A kernel frame was saved as a user context or the reverse: the CPU is sent to kernel "
    "code in ring 3 (#PF, error code 0x15), or to a process's code in ring 0, with all its rights.",
    confirm="print the thread's context: cs (bits 0-1 the ring) against rip.",
    mend="Save a context together with where it came from, and check cs before it is loaded.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesyncFacts(Facts):
    """The thread that the scheduler has on a CPU, and the one that gs:[8] names."""

    cpu: int
    scheduler_current: int
    scheduler_name: str | None
    percpu_current: VirtAddr
    percpu_id: int | None
    percpu_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFacts(Facts):
    """A thread that is over, and where in ring 3 a CPU runs it all the same."""

    cpu: int
    thread: int
    name: str
    state: str
    pid: int | None
    rip: VirtAddr
    ring: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoCpusFacts(Facts):
    """A thread, and the CPUs whose per-CPU blocks name it."""

    thread: int | None
    name: str | None
    address: VirtAddr
    on_cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LostFacts(Facts):
    """A thread that nobody will run."""

    thread: int
    name: str
    pid: int | None
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptedFacts(Facts):
    """Ring 3 at an address of the kernel's."""

    rip: VirtAddr
    symbol: str | None
    cs: Hex
    rsp: VirtAddr


Mix = Literal["ring-3-in-kernel", "ring-0-in-process", "starts-in-kernel"]
"""How a saved context mixes the rings; the last is one that never ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFacts(Facts):
    """The saved registers of a thread, and what they belong to."""

    pid: int
    thread: int
    copy: str
    state: str
    rip: VirtAddr
    cs: Hex
    rsp: VirtAddr
    blocked_in_syscall: bool | None
    symbol: Annotated[str | None, ASIDE]
    mix: Annotated[Mix, ASIDE]


def check_current(kernel: Kernel) -> Iterator[Finding]:
    """Whom the scheduler has on each CPU, against gs:[8]."""
    if not kernel.is_breenix:
        raise NotChecked(State.NO_PERCPU)
    scheduler = kernel.structures.scheduler
    looked = False
    for cpu in kernel.stop.cpus:
        block = kernel.percpu_of(cpu)
        if block is None or not block.current_thread or not settled(kernel, cpu):
            continue
        looked = True
        yield from _dead(kernel, cpu)
        wanted = scheduler.current_of(cpu.index)
        there = scheduler.thread_at(block.current_thread)
        if wanted is None or (there is not None and there.id == wanted):
            continue
        yield _desync(kernel, cpu, block, wanted, there)
    yield from _run_twice(kernel)
    if not looked:
        raise NotChecked(State.SWITCHING_THREADS)
    if scheduler.locked:
        raise NotChecked(State.SCHEDULER_LOCKED)


def _run_twice(kernel: Kernel) -> Iterator[Finding]:
    """Threads that gs:[8] names on more than one CPU."""
    users: dict[VirtAddr, list[int]] = {}
    for cpu in kernel.stop.cpus:
        block = kernel.percpu_of(cpu)
        if block is not None and block.current_thread and settled(kernel, cpu):
            users.setdefault(block.current_thread, []).append(cpu.index)
    for address, cpus in users.items():
        if len(cpus) > 1:
            thread = kernel.structures.scheduler.thread_at(address)
            facts = TwoCpusFacts(
                thread=None if thread is None else thread.id,
                name=None if thread is None else thread.name,
                address=address,
                on_cpus=tuple(cpus),
            )
            yield Finding(TWO_CPUS, facts.name or "thread", facts, Where(va=address))


def check_ready(kernel: Kernel) -> Iterator[Finding]:
    """Threads that are ready: each is in a queue, or a CPU has it."""
    if not kernel.is_breenix:
        raise NotChecked(State.NO_PERCPU)
    scheduler = kernel.structures.scheduler
    if scheduler.locked:
        raise NotChecked(State.SCHEDULER_LOCKED)
    if not all(settled(kernel, cpu) for cpu in kernel.stop.cpus if kernel.percpu_of(cpu)):
        raise NotChecked(State.SWITCHING_THREADS)
    at_hand = {id_ for queue in scheduler.ready for id_ in queue} | scheduler.on_the_way
    at_hand |= {id_ for id_ in (*scheduler.current, *scheduler.idle) if id_ is not None}
    on_cpus = {a for b in kernel.percpus for a in (b.current_thread, b.idle_thread)}
    for thread in scheduler.threads:
        if thread.state != "Ready" or thread.id in at_hand or thread.address in on_cpus:
            continue
        facts = LostFacts(
            thread=thread.id, name=thread.name, pid=thread.owner_pid, state=thread.state
        )
        yield Finding(LOST_WAKE_UP, thread.name, facts, Where(va=thread.address))


def _dead(kernel: Kernel, cpu: Cpu) -> Iterator[Finding]:
    """A CPU that is in ring 3, or has just come from there, with a thread that is over: in ring 0
    a thread that ends is its own for a while."""
    scheduler, here = kernel.structures.scheduler, running(kernel, cpu)
    current = scheduler.current_of(cpu.index)
    thread = None if current is None else scheduler.thread(current)
    if here is None or here.cpl != 3 or thread is None or thread.alive or scheduler.locked:
        return
    facts = DeadFacts(
        cpu=cpu.index,
        thread=thread.id,
        name=thread.name,
        state=thread.state,
        pid=thread.owner_pid,
        rip=here.rip,
        ring=here.cpl,
    )
    yield Finding(DEAD_RUNNING, thread.name, facts, Where(cpu.root, here.rip))


def _desync(kernel: Kernel, cpu: Cpu, block: PerCpu, wanted: int, there: Thread | None) -> Finding:
    scheduled = kernel.structures.scheduler.thread(wanted)
    facts = DesyncFacts(
        cpu=cpu.index,
        scheduler_current=wanted,
        scheduler_name=None if scheduled is None else scheduled.name,
        percpu_current=block.current_thread,
        percpu_id=None if there is None else there.id,
        percpu_name=None if there is None else there.name,
    )
    return Finding(DESYNC, "scheduler", facts, Where(va=block.base + 8))


def check_contexts(kernel: Kernel) -> Iterator[Finding]:
    """Saved registers of every thread, and the frame that the stop's exception came from."""
    if not kernel.is_breenix:
        raise NotChecked(State.NO_PERCPU)
    yield from _interrupted(kernel)
    scheduler, table = kernel.structures.scheduler, kernel.structures.processes
    unscheduled = 0
    half_saved: HalfSaved | None = None
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
            half_saved = HalfSaved(thread.name)
        elif wrong:
            yield _mismatch(kernel, thread, process, wrong)
    if half_saved is not None:
        raise NotChecked(half_saved)
    if unscheduled:
        raise NotChecked(ProcessesUnscheduled(unscheduled))


def _interrupted(kernel: Kernel) -> Iterator[Finding]:
    """An exception of ring 3 whose RIP is in the kernel's image: the kernel resumed it there, or
    the process jumped there by itself. Nothing that is left tells the two apart."""
    here = running(kernel, kernel.stop.cpu)
    image = kernel.stop.image
    if here is None or not here.interrupted or image is None:
        return
    if here.cpl == 3 and image.holds(here.rip):
        facts = InterruptedFacts(
            rip=here.rip, symbol=kernel.symbol(here.rip), cs=Hex(here.cs), rsp=here.rsp
        )
        subject = kernel.thread_name(here.cpu) or "frame"
        where = Where(here.cpu.root, here.rip)
        yield Finding(PRIVILEGE, subject, facts, where, confidence="likely")


def _wrong(kernel: Kernel, thread: Thread, process: Process) -> Mix | None:
    """Why a saved context cannot be meant; None when it can.

    A user thread may be saved in ring 0 (since 2026, when it was interrupted in a system call): cs
    and rip have to agree, whatever ring it is.
    """
    context = thread.context
    if not context.rip or not context.cs:
        return None  # nothing was saved yet
    kernels = _is_kernels(kernel, process, context.rip)
    if kernels is None:
        return None
    if context.cpl == 3 and kernels:
        return "ring-3-in-kernel"
    if context.cpl == 0 and not kernels:
        return "ring-0-in-process"
    return None


def _wrong_entry(kernel: Kernel, thread: Thread, process: Process) -> Mix | None:
    """Why a user thread that never ran cannot start: its first frame takes rip from the context and
    everything else as ring 3 has it (context_switch.rs, setup_first_userspace_entry)."""
    if thread.user and thread.context.rip and _is_kernels(kernel, process, thread.context.rip):
        return "starts-in-kernel"
    return None


def _is_kernels(kernel: Kernel, process: Process, rip: VirtAddr) -> bool | None:
    """Whether an address is the kernel's; None when it is mapped for nobody."""
    image, root = kernel.stop.image, process.effective_root
    if image is not None and image.holds(rip):
        return True
    if root is None:
        return None
    walk = kernel.walk(root, rip)
    return None if walk.effective is None else not walk.effective.u


def _mismatch(kernel: Kernel, thread: Thread, process: Process, mix: Mix) -> Finding:
    context = thread.context
    facts = ContextFacts(
        pid=process.pid,
        thread=thread.id,
        copy=thread.copy,
        state=thread.state,
        rip=context.rip,
        cs=Hex(context.cs),
        rsp=context.rsp,
        blocked_in_syscall=thread.blocked_in_syscall,
        symbol=kernel.symbol(context.rip),
        mix=mix,
    )
    return Finding(PRIVILEGE, thread.name, facts, Where(process.effective_root, context.rip))
