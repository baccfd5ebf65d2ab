"""Leaks: what grew between two stops of one run and is explained by nothing that lives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.checks.facts import ASIDE, Facts
from breenix_gdbagent.checks.finding import CheckResult, Finding, NotChecked, declare
from breenix_gdbagent.checks.reasons import NotRead, State
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.allocators import Heap
from breenix_gdbagent.kernel.view import Kernel

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
LEAKS = "leaks"


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesLeakFacts(Facts):
    """Frames in use that nothing reaches, more than at the stop before."""

    frames: int
    used_before: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeapLeakFacts(Facts):
    """What the heap gave out since the stop before; `blocks` of a bump heap only. `size` is the
    heap's."""

    bytes: int
    blocks: int | None
    used_before: int
    used: int
    size: Annotated[int, ASIDE]


@dataclass(frozen=True, slots=True)
class Account:
    """What the allocators say at one stop, and what lives; it outlasts the stop.

    `unreached` are frames in use that no living space maps or has as a table.
    """

    unreached: int
    used: int
    heap: Heap
    processes: int
    threads: int


def account(kernel: Kernel) -> Account:
    """The account of one stop. Raises `ReadError` without the kernel's types, and `NotChecked`
    while one of the allocators is at work."""
    frames, heap = kernel.structures.frames, kernel.structures.heap
    if frames.locked or heap.locked:
        raise NotChecked(State.ALLOCATOR_LOCKED)
    ledger = kernel.ledger
    reached = set(ledger.table_frames) | set(ledger.kernel_frames)
    reached.update(page.pa for page in ledger.user_pages())
    held = sum(1 for frame in reached if frames.state(frame) == "allocated")
    processes, threads = kernel.structures.processes.processes, kernel.structures.scheduler.threads
    return Account(
        unreached=frames.used - held,
        used=frames.used,
        heap=heap,
        processes=sum(1 for p in processes if p.alive),
        threads=sum(1 for t in threads if t.alive),
    )


def grown(before: Kernel, after: Kernel) -> Iterator[Finding]:
    """`compare` for two stops that can both be read. Raises `NotChecked` with the reason."""
    try:
        then, now = account(before), account(after)
    except ReadError as lacking:
        raise NotChecked(NotRead(lacking.what)) from lacking
    yield from compare(then, now)


def since(
    then: Account | None, kernel: Kernel
) -> tuple[Account | None, tuple[Finding, ...], CheckResult | None]:
    """The account of this stop, and what leaked since the one before. The result is None where
    there was none before; an account that cannot be taken is `not_checked`."""
    try:
        now = account(kernel)
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
        taken = FramesLeakFacts(frames=lost, used_before=then.used, used=now.used)
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
        )
        yield Finding(HEAP_LEAK, "heap", grew, confidence="likely")


def _more_lives(then: Account, now: Account) -> bool:
    return now.processes > then.processes or now.threads > then.threads
