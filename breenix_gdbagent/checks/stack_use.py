"""How kernel stacks are used: who stands on which, how deep, and over the edge."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.addresses import PAGE, VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.checks import any_kernel
from breenix_gdbagent.checks.facts import ASIDE, SPREAD, Facts
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.checks.reasons import BottomsMissing, NotRead
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.running import Running, backtrace, not_returning, running
from breenix_gdbagent.kernel.stacks import KernelStack
from breenix_gdbagent.kernel.threads import Thread
from breenix_gdbagent.kernel.view import Kernel

OVERFLOW = declare(
    "kernel-stack.overflow",
    "error",
    "a kernel stack has run over its end",
    arises="RSP lies below the bottom of its stack, where the guard page should have stopped it: "
    "deep recursion, a large local array, or formatting in a fault path on a stack whose guard is "
    "mapped or was jumped over.",
    confirm="RSP against the stack's bottom; pt walk GUARD.",
    mend="Find the largest frames with bt; move big buffers to the heap.",
)
FOREIGN = declare(
    "kernel-stack.foreign",
    "error",
    "the kernel runs on a stack that is not its thread's",
    arises="A switch left RSP on the old thread's stack: when that thread runs again, both write "
    "over each other.",
    confirm="RSP against the per-CPU block and the top of the thread's kernel stack.",
    mend="Return to a thread with the top of its own kernel stack in the iret frame.",
)
DEAD_OWNER = declare(
    "kernel-stack.dead-owner",
    "error",
    "the kernel runs on the stack of a thread that is over",
    arises="A switch away from a thread that ended left RSP on its stack (idle, most often): when "
    "the slot is given back and out again, two write over each other, or it is unmapped under RSP.",
    confirm="stacks: the slot that RSP is in, and the state of its owner.",
    mend="Return to the next thread with the top of its own kernel stack in the iret frame, before "
    "the slot of the one that ended is given back.",
)
NEARLY_FULL = declare(
    "kernel-stack.nearly-full",
    "warning",
    "a kernel stack has little room left",
    arises="Less than a sixteenth of the stack is free below RSP, or was at its deepest so far: "
    "frames of the stack itself stand there.",
    confirm="Words below RSP that point into the stack or into the kernel's code.",
    mend="Find the largest frames with bt; an interrupt on top of this needs room too.",
)

ROOM = 16
"""A stack is nearly full when less than one part in so many is free."""
_WORD = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class StackUse(Facts):
    """A CPU in ring 0 and the stack that its RSP is about."""

    cpu: int
    rsp: VirtAddr
    rip: VirtAddr
    symbol: str | None
    stack: str
    bottom: VirtAddr
    top: VirtAddr
    owners: tuple[str, ...]
    thread: str | None
    kernel_stack_top: VirtAddr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSize(Facts):
    """How much of the stack one function has."""

    bytes: int
    function: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth(Facts):
    """What a stack is used up by: its largest frames, and the functions that call each other."""

    largest_frames: tuple[FrameSize, ...]
    cycle: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OverflowFacts(Facts):
    """The stack is the one whose guard page RSP lies in."""

    use: Annotated[StackUse, SPREAD]
    depth: Annotated[Depth | None, SPREAD]

    @property
    def about(self) -> str:
        return self.use.stack


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFacts(Facts):
    """Why the stack is not the CPU's: another runs on it (`other_cpu`), or its thread has another
    (`own_top`); with neither it is an IST stack outside an exception."""

    use: Annotated[StackUse, SPREAD]
    other_cpu: Annotated[int | None, ASIDE] = None
    own_top: Annotated[VirtAddr | None, ASIDE] = None

    @property
    def about(self) -> str:
        return self.use.stack


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadOwnerFacts(Facts):
    """The thread whose stack it is, and whose state says that it is over."""

    use: Annotated[StackUse, SPREAD]
    dead_thread: int
    dead_name: str

    @property
    def about(self) -> str:
        return self.use.stack


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthFacts(Facts):
    """How deep a stack was used; sizes in bytes."""

    stack: str
    owners: tuple[str, ...]
    bottom: VirtAddr
    top: VirtAddr
    free: int
    lowest: VirtAddr

    @property
    def about(self) -> str:
        return self.stack


def check_place(kernel: Kernel) -> Iterator[Finding]:
    """Where each CPU in ring 0 stands: below its stack, on another's, on an IST stack without an
    exception, or two on one."""
    if not kernel.is_breenix:
        yield from any_kernel.check_place(kernel, FOREIGN)
        return
    taken: dict[int, int] = {}
    for cpu in kernel.stop.cpus:
        here = running(kernel, cpu)
        if here is None or here.cpl == 3:
            continue
        over, stack = _below(kernel, here.rsp), kernel.stack_at(here.rsp)
        if over is not None and not _stopped_by_guard(kernel, cpu, over):
            yield _overflow(kernel, here, over)
        if stack is not None:
            yield from _foreign(kernel, here, stack, taken)


def _below(kernel: Kernel, rsp: int) -> KernelStack | None:
    """The stack whose guard page `rsp` lies in. Its bottom itself is still its own, and the guard's
    first address is the top of the slot below: an empty stack."""
    if kernel.stack_at(rsp) is not None:
        return None
    return next(
        (s for s in kernel.stacks if s.guard is not None and s.guard <= rsp < s.bottom), None
    )


def _stopped_by_guard(kernel: Kernel, cpu: Cpu, stack: KernelStack) -> bool:
    """Whether the guard page did its work, and the fault says so (page-fault.guard-page)."""
    root, cr2 = cpu.root, cpu.get("cr2")
    if root is None or stack.guard is None or cpu is not kernel.stop.cpu:
        return False
    fault = kernel.stop.reason.kind in ("fault", "shutdown", "triple-fault")
    at_guard = cr2 is not None and stack.guard <= cr2 < stack.bottom
    return fault and at_guard and not kernel.walk(root, stack.guard).mapped


def _use(kernel: Kernel, here: Running, stack: KernelStack) -> StackUse:
    block = kernel.percpu_of(here.cpu)
    return StackUse(
        cpu=here.cpu.index,
        rsp=here.rsp,
        rip=here.rip,
        symbol=kernel.symbol(here.rip),
        stack=stack.name,
        bottom=stack.bottom,
        top=stack.top,
        owners=kernel.owners_of(stack),
        thread=kernel.thread_name(here.cpu),
        kernel_stack_top=None if block is None else VirtAddr(block.kernel_stack_top),
    )


def _at(here: Running) -> Where:
    return Where(here.cpu.root, here.rsp)


def _overflow(kernel: Kernel, here: Running, stack: KernelStack) -> Finding:
    trace, depth = backtrace(kernel, here), None
    if trace is not None:
        cycle = trace.cycle()
        depth = Depth(
            largest_frames=tuple(
                FrameSize(bytes=size, function=frame.name) for size, frame in trace.largest()
            ),
            cycle=None if cycle is None else tuple(cycle[0]),
        )
    facts = OverflowFacts(use=_use(kernel, here, stack), depth=depth)
    return Finding(OVERFLOW, stack.subject, facts, _at(here))


def _foreign(
    kernel: Kernel, here: Running, stack: KernelStack, taken: dict[int, int]
) -> Iterator[Finding]:
    cpu = here.cpu
    if stack.top in taken:
        yield _alien(kernel, here, stack, other_cpu=taken[stack.top])
        return
    taken[stack.top] = cpu.index
    if stack.ist is not None:
        # Breenix's handlers come through interrupt gates and never set IF.
        if here.interrupts_on:
            yield _alien(kernel, here, stack)
        return
    block = kernel.percpu_of(cpu)
    if block is None or not block.current_thread or not not_returning(kernel, here, stack):
        return
    thread = kernel.thread_of(cpu)
    own = block.kernel_stack_top
    # Where gs:[8] is wrong itself (thread.desync) its thread says nothing of the stack.
    if thread is not None and kernel.scheduled(cpu) == thread.id:
        own = thread.kernel_stack_top or own
    owners = kernel.owners_of(stack)
    dead = kernel.dead_owners_of(stack)
    if dead and thread is not None and all(one.id != thread.id for one in dead):
        yield _dead_owner(kernel, here, stack, dead[0])
        return
    # A wrong kernel_stack_top is tss.rsp0-invalid; then only an owner of the stack proves it.
    known = any(other.top == own for other in kernel.stacks)
    alien = any(name != (thread.name if thread is not None else None) for name in owners)
    if not own or own == stack.top or not (known or alien):
        return
    yield _alien(kernel, here, stack, own_top=own)


def _dead_owner(kernel: Kernel, here: Running, stack: KernelStack, dead: Thread) -> Finding:
    use = _use(kernel, here, stack)
    facts = DeadOwnerFacts(use=use, dead_thread=dead.id, dead_name=dead.name)
    return Finding(DEAD_OWNER, use.thread or stack.subject, facts, _at(here))


def _alien(
    kernel: Kernel,
    here: Running,
    stack: KernelStack,
    *,
    other_cpu: int | None = None,
    own_top: int | None = None,
) -> Finding:
    facts = ForeignFacts(
        use=_use(kernel, here, stack),
        other_cpu=other_cpu,
        own_top=None if own_top is None else VirtAddr(own_top),
    )
    return Finding(FOREIGN, facts.use.thread or stack.subject, facts, _at(here))


def check_depth(kernel: Kernel) -> Iterator[Finding]:
    """How much of each stack is free: below RSP now, and at the deepest use that left traces."""
    if kernel.master is None:
        raise NotChecked(NotRead(kernel.no_master))
    over = {s.top for s in _run_over(kernel)}
    lacking = 0
    for stack in (*kernel.stacks, *kernel.ist):
        if stack.top in over:
            continue
        low = _lowest_rsp(kernel, stack)
        if low is None:
            try:
                low = deepest_use(kernel, stack)
            except ReadError:
                lacking += 1
        if low is not None and low - stack.bottom < stack.size // ROOM:
            yield _full(kernel, stack, low)
    if lacking:
        raise NotChecked(BottomsMissing(lacking))


def _run_over(kernel: Kernel) -> Iterator[KernelStack]:
    """Stacks that ran over: this or the fault itself says more than that they are full."""
    for cpu in kernel.stop.cpus:
        here = running(kernel, cpu)
        cr2 = cpu.get("cr2")
        for stack in kernel.stacks:
            if stack.guard is None:
                continue
            below = here is not None and _below(kernel, here.rsp) is stack
            if below or (cr2 is not None and stack.guard <= cr2 < stack.bottom):
                yield stack


def _lowest_rsp(kernel: Kernel, stack: KernelStack) -> int | None:
    """An RSP on this stack that leaves little room, of a CPU or of a saved context."""
    found = [h.rsp for cpu in kernel.stop.cpus if (h := running(kernel, cpu)) and h.cpl == 0]
    try:
        threads = kernel.structures.scheduler.threads
    except ReadError:
        threads = ()
    found += [t.context.rsp for t in threads if t.alive and t.context.cpl == 0]
    near = [rsp for rsp in found if stack.holds(rsp) and rsp - stack.bottom < stack.size // ROOM]
    return min(near, default=None)


def deepest_use(kernel: Kernel, stack: KernelStack) -> int | None:
    """The lowest address in the last sixteenth of a stack that holds what only the stack's own use
    leaves there: an address of the stack itself, or (where frames never come back, so that they
    hold no other stack's remains) of the kernel's code. None when there is no such word.

    Raises `ReadError` where those pages are not in the memory we have.
    """
    assert kernel.master is not None
    memory = kernel.memory_of(kernel.master.root)
    length = -(-stack.size // ROOM // PAGE) * PAGE
    codes = not kernel.frames_come_back
    for page in range(stack.bottom, stack.bottom + length, PAGE):
        if not kernel.walk(kernel.master.root, page).mapped:
            continue
        raw = memory.read(page, PAGE)
        if not raw.strip(b"\0"):
            continue
        for offset, (word,) in zip(range(0, PAGE, 8), _WORD.iter_unpack(raw), strict=True):
            if stack.bottom <= word <= stack.top or (codes and _is_code(kernel, word)):
                return page + offset
    return None


def _is_code(kernel: Kernel, word: int) -> bool:
    """Whether a word is a return address into the kernel: a symbol, and a call before it."""
    image = kernel.stop.image
    if image is None or not image.holds(word):
        return False
    text = image.image.text
    link = image.link(word)
    return text is not None and text.address < link < text.address + text.size


def _full(kernel: Kernel, stack: KernelStack, low: int) -> Finding:
    facts = DepthFacts(
        stack=stack.name,
        owners=kernel.owners_of(stack),
        bottom=stack.bottom,
        top=stack.top,
        free=low - stack.bottom,
        lowest=VirtAddr(low),
    )
    where = Where(kernel.master.root if kernel.master else None, low)
    return Finding(NEARLY_FULL, facts.owners[0] if facts.owners else stack.subject, facts, where)
