"""Leaks: what grew between two stops of one run and is explained by nothing that lives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, Facts
from breenix_gdbagent.checks.finding import CheckResult, Finding, NotChecked, declare
from breenix_gdbagent.checks.reasons import NotRead, State
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.allocators import Heap
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.pages import pages

FRAMES_LEAK = declare(
    "frames.leak",
    "warning",
    "frames were taken that nothing reaches",
    arises="Between two stops frames were given out that are neither mapped nor a table of any "
    "space that lives: page tables of dead processes, kernel stacks of dead threads, DMA buffers "
    "never returned.",
    confirm="frames at both stops; pt who FRAME of one that is allocated finds nobody.",
    mend="Return every frame of a page table and of a kernel stack when its owner ends.",
)
HEAP_LEAK = declare(
    "heap.leak",
    "warning",
    "the kernel heap grew and nothing new lives",
    arises="Between two stops blocks were allocated and not given back, while no process and no "
    "thread was added: a list that only grows, a cache without a bound.",
    confirm="heap at both stops.",
    mend="Watch the allocator between the two markers (a checkpoint at its entry).",
)

SMALLEST_HEAP_GROWTH = 256
_USER_END = (1 << 47) - 1
LEAKS = "leaks"


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesLeakFacts(Facts):
    """Frames in use that nothing reaches, at `until_stop` more than at the one it is compared
    with (`since_stop`)."""

    frames: int
    used_before: int
    used: int
    since_stop: Annotated[int | None, IF_KNOWN] = None
    until_stop: Annotated[int | None, IF_KNOWN] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeapLeakFacts(Facts):
    """What the heap gave out since the stop before; `blocks` of a bump heap only. `size` is the
    heap's."""

    bytes: int
    blocks: int | None
    used_before: int
    used: int
    size: Annotated[int, ASIDE]
    since_stop: Annotated[int | None, IF_KNOWN] = None
    until_stop: Annotated[int | None, IF_KNOWN] = None


@dataclass(frozen=True, slots=True)
class Account:
    """What the allocators say at one stop, and what lives; it outlasts the stop.

    `unreached` are frames in use that no living space maps or has as a table. `stop` is its number
    in the run, where it is one of several.
    """

    unreached: int
    used: int
    heap: Heap
    processes: int
    threads: int
    stop: int | None = None


def account(kernel: Kernel, stop: int | None = None) -> Account:
    """The account of one stop. Raises `ReadError` without the kernel's types, and `NotChecked`
    while something is half made: an allocator at work, a process or thread being entered."""
    frames, heap = kernel.structures.frames, kernel.structures.heap
    if frames.locked or heap.locked:
        raise NotChecked(State.ALLOCATOR_LOCKED)
    if kernel.structures.processes.locked or kernel.under_construction:
        raise NotChecked(State.PROCESS_MANAGER_LOCKED)
    if kernel.structures.scheduler.locked:
        raise NotChecked(State.SCHEDULER_LOCKED)
    ledger = kernel.ledger
    reached = set(ledger.table_frames) | set(ledger.kernel_frames)
    reached.update(page.pa for page in ledger.user_pages())
    reached.update(_of_other_roots(kernel))
    held = sum(1 for frame in reached if frames.state(frame) == "allocated")
    processes, threads = kernel.structures.processes.processes, kernel.structures.scheduler.threads
    return Account(
        stop=stop,
        unreached=frames.used - held,
        used=frames.used,
        heap=heap,
        processes=sum(1 for p in processes if p.alive),
        threads=sum(1 for t in threads if t.alive),
    )


def _of_other_roots(kernel: Kernel) -> Iterator[int]:
    """Tables and pages of the roots of living processes that are not audited (one that is being
    replaced, or whose frame has another use by now): what they reach is not lost."""
    audited = {space.root for space in kernel.audited}
    live = [p for p in kernel.structures.processes.processes if p.alive]
    roots = {root for p in live for root in (p.root, p.inherited_root) if root is not None}
    for root in roots - audited:
        yield from kernel.merged.table_frames([root])
        yield from (page.frame for page in pages(kernel.tables, root, kernel.levels, 0, _USER_END))


def grown(before: Kernel, after: Kernel) -> Iterator[Finding]:
    """`compare` for two stops that can both be read. Raises `NotChecked` with the reason."""
    try:
        then, now = account(before), account(after)
    except ReadError as lacking:
        raise NotChecked(NotRead(lacking.what)) from lacking
    yield from compare(then, now)


def since(
    then: Account | None, kernel: Kernel, stop: int | None = None
) -> tuple[Account | None, tuple[Finding, ...], CheckResult | None]:
    """The account of this stop, and what leaked since the one before, which is to be one at the
    same marker. The result is None where there was none before; an account that cannot be taken is
    `not_checked`."""
    try:
        now = account(kernel, stop)
    except (NotChecked, ReadError) as lacking:
        why = NotRead(lacking.what) if isinstance(lacking, ReadError) else lacking.reason
        return None, (), CheckResult(LEAKS, "not_checked", why)
    if then is None:
        return now, (), None
    found = tuple(compare(then, now))
    return now, found, CheckResult(LEAKS, "failed" if found else "passed")


def compare(then: Account, now: Account) -> Iterator[Finding]:
    """What leaked from one stop to a later one of the same run. Meant for two moments at which the
    kernel should have as much: the same marker twice."""
    lost = now.unreached - then.unreached
    if lost > 0:
        taken = FramesLeakFacts(
            frames=lost,
            used_before=then.used,
            used=now.used,
            since_stop=then.stop,
            until_stop=now.stop,
        )
        yield Finding(FRAMES_LEAK, "frame allocator", taken)
    if _more_lives(then, now):
        return
    bytes_ = now.heap.used - then.heap.used
    blocks = (now.heap.allocations or 0) - (then.heap.allocations or 0)
    # A bump heap gives nothing back before its last block goes: only live blocks tell.
    if bytes_ >= SMALLEST_HEAP_GROWTH and (now.heap.kind != "bump" or blocks > 0):
        grew = HeapLeakFacts(
            bytes=bytes_,
            blocks=blocks if now.heap.kind == "bump" else None,
            used_before=then.heap.used,
            used=now.heap.used,
            size=now.heap.size,
            since_stop=then.stop,
            until_stop=now.stop,
        )
        yield Finding(HEAP_LEAK, "heap", grew, confidence="likely")


def _more_lives(then: Account, now: Account) -> bool:
    return now.processes > then.processes or now.threads > then.threads
