"""IDT, GDT and TSS: what every delivery of an exception needs, in every space it can come from.

The codes that a fault rests on as well are declared in `faults/descriptors.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from breenix_gdbagent.addresses import PAGE, VirtAddr, canonical, hex64, page_base
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.walks import UNREADABLE, Walk
from breenix_gdbagent.checks import any_kernel
from breenix_gdbagent.checks.facts import ASIDE, SPREAD, Facts
from breenix_gdbagent.checks.faults.descriptors import (
    GATE_MISSING,
    GDT_UNMAPPED,
    HANDLER_UNMAPPED,
    RSP0_INVALID,
)
from breenix_gdbagent.checks.finding import Code, Finding, NotChecked, Where, declare, place_of
from breenix_gdbagent.checks.reasons import (
    IdtNotRead,
    NotRead,
    State,
    TableNotReached,
    TableOfFirmware,
)
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.percpu import PerCpu
from breenix_gdbagent.kernel.running import running, settled
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.descriptors import TSS_SIZE
from breenix_gdbagent.x86.paging import A, D, slots_of
from breenix_gdbagent.x86.vectors import VECTOR_NAMES

RSP0_MISMATCH = declare(
    "tss.rsp0-mismatch",
    "error",
    "TSS.RSP0 is the stack of another thread than the one that runs",
    arises="A switch set the per-CPU block and not the TSS, or a cached copy was written back: "
    "the next interrupt from ring 3 lands on a stack that belongs to somebody else, and two "
    "threads overwrite each other's frames.",
    confirm="The 8 bytes at TR.base + 4 against the per-CPU block and the top of the thread's "
    "kernel stack.",
    mend="Set both in one place at every switch.",
)
IST_SHARED = declare(
    "ist.shared",
    "warning",
    "two exceptions use one IST stack",
    arises="Two entries of the TSS name the same memory, or a gate uses the #DF stack: when one "
    "exception comes while the other is handled, its frame overwrites the first.",
    confirm="The tops at TR.base + 36 + 8 * (IST - 1), and the IST field of the gates.",
    mend="Give #DF a stack that nothing else uses, and each IST entry its own.",
)

DOUBLE_FAULT = 8
TABLES = ("IDT", "GDT", "TSS")
_NAMES = {32: "timer", 0x80: "system call"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFacts(Facts):
    """A gate that the IDT lacks, and where it would be."""

    vector: int
    gate: VirtAddr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreachedFacts(Facts):
    """Tables (`TABLES`), or handlers by the names of their vectors, that cannot be reached in some
    spaces. `mapped`: they are there and cannot be executed. `spaces` are the first sixteen."""

    what: tuple[str, ...]
    va: VirtAddr
    spaces: tuple[Space, ...]
    reason: str
    symbol: Annotated[str | None, ASIDE]
    mapped: Annotated[bool, ASIDE]
    everywhere: Annotated[bool, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rsp0(Facts):
    """TSS.RSP0 of a CPU, and the stack of the thread that runs there by the per-CPU block and by
    the scheduler."""

    cpu: int
    rsp0: VirtAddr
    kernel_stack_top: VirtAddr
    thread: str | None
    thread_stack_top: VirtAddr | None


Rsp0Flaw = Literal[
    "not-set", "not-canonical", "in-the-middle", "no-stack", "unmapped-below", "read-only-below"
]
"""Why RSP0 is no usable top of a stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rsp0InvalidFacts(Facts):
    """`inside` is the stack in whose middle it lies."""

    at: Annotated[Rsp0, SPREAD]
    flaw: Annotated[Rsp0Flaw, ASIDE]
    inside: Annotated[str | None, ASIDE] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rsp0MismatchFacts(Facts):
    """RSP0 belongs to `stack` (None: to no stack that is known), and should be `right`."""

    at: Annotated[Rsp0, SPREAD]
    stack: Annotated[str | None, ASIDE]
    right: Annotated[VirtAddr, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class IstSharedFacts(Facts):
    """Vectors whose gates lead to one IST stack; `names` are theirs."""

    top: VirtAddr
    vectors: tuple[int, ...]
    ist: tuple[int, ...]
    cpu: int
    names: Annotated[tuple[str, ...], ASIDE]


def check_gates(kernel: Kernel) -> Iterator[Finding]:
    """The gates that the kernel counts on are there. That others are missing by design (#NM, #NP,
    ...) is no finding before an event needs one: then the fault analyzers say so."""
    if not kernel.is_breenix:
        raise NotChecked(State.GATES_NOT_KNOWN)
    gates = kernel.gates
    processes = any(s.role == "process" for s in kernel.spaces)
    wanted = kernel.adapter.gates(processes=processes)
    for vector in wanted:
        if vector not in gates:
            name = _vector(vector)
            idtr = kernel.stop.cpu.idtr
            at = None if idtr is None else idtr.base + 16 * vector
            where = Where(va=at)
            gate = None if at is None else VirtAddr(at)
            yield Finding(GATE_MISSING, name, GateFacts(vector=vector, gate=gate), where)


def _vector(vector: int) -> str:
    return VECTOR_NAMES.get(vector) or _NAMES.get(vector) or f"vector {vector}"


def check_reachable(kernel: Kernel) -> Iterator[Finding]:
    """IDT, GDT and TSS can be read, and handlers executed, under every CR3 that an exception may
    come from: each audited space. Of other kernels the tables alone, under what each CPU runs on:
    Linux leaves gates for vectors that never come pointing to memory it has given back."""
    if kernel.mode is None:
        raise NotChecked(NotRead(kernel.stop.no_paging))
    lacking: list[TableNotReached] = []
    inherited: list[TableOfFirmware] = []
    for cpu, spaces in _places(kernel):
        found: dict[tuple[str, str], list[Space]] = defaultdict(list)
        walks: dict[tuple[str, str], Walk] = {}
        for group in _alike(kernel, cpu, spaces):
            for code, what, walk in _unreachable(kernel, cpu, group[0]):
                if walk.reason == UNREADABLE:
                    lacking.append(TableNotReached(what, cpu.index, walk.va))
                    continue
                if _inherited(kernel, walk):
                    inherited.append(TableOfFirmware(what, walk.va))
                    continue
                found[code.name, what] += group
                walks.setdefault((code.name, what), walk)
        codes = {c.name: c for c in (GDT_UNMAPPED, HANDLER_UNMAPPED)}
        together: dict[tuple[str, bool, tuple[int, ...]], list[str]] = defaultdict(list)
        for (name, what), where in found.items():
            roots = tuple(s.root for s in where)
            together[name, what in TABLES, roots].append(what)
        for (name, _, _), whats in together.items():
            key = name, whats[0]
            yield _unreached(kernel, codes[name], whats, found[key], walks[key])
    if lacking:
        raise NotChecked(lacking[0])
    if inherited:
        raise NotChecked(inherited[0])


def _inherited(kernel: Kernel, walk: Walk) -> bool:
    """Whether a table that is not mapped may be the firmware's: a bootloader leaves IDTR as it was,
    and nothing is wrong until an exception comes before the kernel has its own. A table in the
    kernel's image, or one that an exception needed in vain, is not."""
    image = kernel.stop.image
    own = image is not None and image.holds(walk.va)
    return not kernel.is_breenix and not own and kernel.stop.reason.kind != "shutdown"


def _places(kernel: Kernel) -> Iterator[tuple[Cpu, Sequence[Space]]]:
    for cpu in kernel.stop.cpus:
        if cpu.paging is None:
            continue  # parked where the firmware left it: the tables are not a kernel's yet
        if kernel.is_breenix:
            yield cpu, kernel.audited
        elif (space := kernel.space_of(cpu.root)) is not None:
            yield cpu, (space,)


def _alike(kernel: Kernel, cpu: Cpu, spaces: Iterable[Space]) -> list[list[Space]]:
    """Spaces whose top-level entries for all that matters here are the same: one stands for all."""
    places = [t.base for t in (cpu.idtr, cpu.gdtr, cpu.tr) if t is not None]
    needed = set(slots_of(places, kernel.levels))
    with suppress(ReadError):
        needed |= kernel.handler_slots
    slots = sorted(needed)
    groups: dict[tuple[int, ...], list[Space]] = defaultdict(list)
    for space in spaces:
        table = kernel.tables.table(space.root)
        groups[tuple(table[slot] & ~(A | D) for slot in slots)].append(space)
    return list(groups.values())


def _unreachable(kernel: Kernel, cpu: Cpu, space: Space) -> Iterator[tuple[Code, str, Walk]]:
    """What cannot be reached under one space: the code, what it is, and the walk that shows it."""
    for code, what, base, size in _tables(cpu):
        for page in range(page_base(base), base + size, PAGE):
            walk = kernel.walk(space.root, page)
            if not walk.mapped:
                yield code, what, walk
                break
    try:
        gates = kernel.gates if kernel.is_breenix else {}
    except ReadError:
        return
    walks: dict[int, Walk] = {}
    for vector, gate in gates.items():
        page = page_base(gate.offset)
        if page not in walks:
            walks[page] = kernel.walk(space.root, page)
        walk = walks[page]
        if walk.effective is None or (walk.effective.nx and kernel.nxe is not False):
            yield HANDLER_UNMAPPED, _vector(vector), kernel.walk(space.root, gate.offset)


def _tables(cpu: Cpu) -> Iterator[tuple[Code, str, int, int]]:
    """(code, name, base, bytes) of the tables that a CPU's registers name."""
    for code, what, place, size in (
        (HANDLER_UNMAPPED, "IDT", cpu.idtr, 0x1000),
        (GDT_UNMAPPED, "GDT", cpu.gdtr, 0x40),
        (GDT_UNMAPPED, "TSS", cpu.tr, TSS_SIZE),
    ):
        if place is None or not place.base:
            continue
        limit = place.limit
        yield code, what, place.base, min(limit + 1 if limit else size, 0x1_0000)


def _unreached(
    kernel: Kernel, code: Code, whats: Sequence[str], spaces: Sequence[Space], walk: Walk
) -> Finding:
    facts = UnreachedFacts(
        what=tuple(whats),
        va=walk.va,
        spaces=tuple(spaces[:16]),
        reason=walk.reason or "no-execute",
        symbol=kernel.symbol(walk.va),
        mapped=walk.mapped,
        everywhere=len(spaces) == len(kernel.audited),
    )
    return Finding(code, whats[0], facts, place_of(walk))


def check_tss(kernel: Kernel) -> Iterator[Finding]:
    """RSP0 of every CPU is the top of a usable stack, and of the running thread's; no two
    exceptions share an IST stack."""
    if not kernel.is_breenix and kernel.mode is not None:
        yield from any_kernel.check_tss(kernel)
        yield from _ist_shared(kernel)
        return
    if kernel.master is None:
        raise NotChecked(NotRead(kernel.no_master))
    if not kernel.tss:
        raise NotChecked(State.NO_TSS)
    # Before there is a process nothing comes from ring 3, and RSP0 is not used: there it is wrong
    # only where it is set and its first push would fault.
    processes = any(s.role == "process" for s in kernel.spaces)
    for cpu in kernel.stop.cpus:
        tss, block = kernel.tss.get(cpu.index), kernel.percpu_of(cpu)
        early = not processes and not (tss is not None and _faults(kernel, tss.rsp0))
        if tss is not None and block is not None and not early:
            yield from _rsp0(kernel, cpu, block, tss.rsp0)
    yield from _ist_shared(kernel)
    if processes and _not_yet(kernel):
        raise NotChecked(State.NO_THREAD_YET)


def _rsp0(kernel: Kernel, cpu: Cpu, block: PerCpu, rsp0: int) -> Iterator[Finding]:
    if not rsp0 and cpu.index in _not_yet(kernel):
        return
    thread = kernel.thread_of(cpu)
    top = thread.kernel_stack_top if thread is not None else None
    facts = Rsp0(
        cpu=cpu.index,
        rsp0=VirtAddr(rsp0),
        kernel_stack_top=VirtAddr(block.kernel_stack_top),
        thread=thread.name if thread is not None else None,
        thread_stack_top=None if top is None else VirtAddr(top),
    )
    where = Where(kernel.master.root if kernel.master else None, rsp0 - 8 if rsp0 else None)
    flaw = _flaw(kernel, rsp0)
    if flaw is not None:
        inside = next((s.name for s in kernel.stacks if s.holds(rsp0)), None)
        wrong = Rsp0InvalidFacts(at=facts, flaw=flaw, inside=inside)
        yield Finding(RSP0_INVALID, "TSS", wrong, where, advice=_advice(kernel, facts))
        return
    if not block.kernel_stack_top or not block.current_thread or not settled(kernel, cpu):
        return
    if _anothers(kernel, cpu):
        return  # tss.shared
    right = block.kernel_stack_top
    # Where gs:[8] is wrong itself (thread.desync) its thread says nothing of RSP0.
    if thread is not None and thread.user and kernel.scheduled(cpu) == thread.id:
        right = thread.kernel_stack_top or right
    if rsp0 != right:
        whose = kernel.stack_at(rsp0)
        mismatch = Rsp0MismatchFacts(
            at=facts, stack=None if whose is None else whose.name, right=VirtAddr(right)
        )
        yield Finding(RSP0_MISMATCH, "TSS", mismatch, where)


def _anothers(kernel: Kernel, cpu: Cpu) -> bool:
    """Whether another CPU has the same TSS loaded."""
    base = cpu.tr.base if cpu.tr is not None else None
    return any(c.tr is not None and c.tr.base == base for c in kernel.stop.cpus if c is not cpu)


def _faults(kernel: Kernel, rsp0: int) -> bool:
    """Whether RSP0 is set and its first push would fault under the master."""
    if not rsp0 or kernel.master is None:
        return False
    if not canonical(rsp0 - 8, kernel.levels):
        return True
    walk = kernel.walk(kernel.master.root, rsp0 - 8)
    if walk.reason == UNREADABLE:
        return False
    return walk.effective is None or not walk.effective.w


def _advice(kernel: Kernel, facts: Rsp0) -> str:
    """What to mend, where the cause shows: RSP0 is as wrong as what it was set from, or only
    itself; empty where neither is known."""
    top = facts.kernel_stack_top
    usable = any(stack.top == top for stack in kernel.stacks)
    if facts.rsp0 and facts.rsp0 == top:
        right = facts.thread_stack_top
        known = right is not None and right != top and any(s.top == right for s in kernel.stacks)
        own = f" ({hex64(right)} is the top of its own stack)" if known and right else ""
        return (
            "RSP0 was set from the per-CPU kernel_stack_top, which is wrong itself: set that from "
            f"the top of the stack that the running thread was given{own}, and do not compute it "
            "from RSP."
        )
    return "Set RSP0 from the per-CPU kernel_stack_top, at every switch." if usable else ""


def _not_yet(kernel: Kernel) -> set[int]:
    """CPUs that have no RSP0 and no thread, and were not in ring 3: the boot tests of 2026 make
    page tables before there is a scheduler."""
    found = set()
    for cpu in kernel.stop.cpus:
        tss, block, here = kernel.tss.get(cpu.index), kernel.percpu_of(cpu), running(kernel, cpu)
        if tss is None or block is None or tss.rsp0 or block.current_thread:
            continue
        if here is None or here.cpl != 3:
            found.add(cpu.index)
    return found


def _flaw(kernel: Kernel, rsp0: int) -> Rsp0Flaw | None:
    """Why `rsp0` is no usable stack top; None when it is one, or that is not known."""
    if not rsp0:
        return "not-set"
    if not canonical(rsp0 - 8, kernel.levels):
        return "not-canonical"
    assert kernel.master is not None
    if any(stack.top == rsp0 for stack in kernel.stacks):
        return None  # its pages in each space are kernel-stack.*
    if kernel.era is not None and kernel.era.base <= rsp0 - 8 < kernel.era.stacks_end:
        middle = any(s.holds(rsp0) for s in kernel.stacks)
        return "in-the-middle" if middle else "no-stack"
    walk = kernel.walk(kernel.master.root, rsp0 - 8)
    if walk.reason == UNREADABLE:
        return None
    if walk.effective is None:
        return "unmapped-below"
    return None if walk.effective.w else "read-only-below"


def _ist_shared(kernel: Kernel) -> Iterator[Finding]:
    try:
        used = defaultdict(list)
        for vector, gate in kernel.gates.items():
            if gate.ist:
                used[gate.ist].append(vector)
    except ReadError as lacking:
        raise NotChecked(IdtNotRead(lacking.what)) from lacking
    for cpu_index, tss in kernel.tss.items():
        by_top: dict[int, list[int]] = defaultdict(list)
        for ist, vectors in sorted(used.items()):
            if tss.ist[ist - 1]:
                by_top[tss.ist[ist - 1]] += vectors
        for top, vectors in by_top.items():
            entries = [i for i in used if tss.ist[i - 1] == top]
            if len(vectors) > 1 and (len(entries) > 1 or DOUBLE_FAULT in vectors):
                yield _shared(cpu_index, top, sorted(vectors), entries)
        # Of another kernel the bottom of a stack is not known.
        for lower, upper in _overlaps(kernel) if kernel.is_breenix else ():
            yield _shared(cpu_index, upper, sorted([*by_top[lower], *by_top[upper]]), [])


def _overlaps(kernel: Kernel) -> Iterator[tuple[int, int]]:
    stacks = sorted(kernel.ist, key=lambda s: s.top)
    for below, above in pairwise(stacks):
        if above.bottom < below.top:
            yield below.top, above.top


def _shared(cpu: int, top: int, vectors: Sequence[int], entries: Sequence[int]) -> Finding:
    names = tuple(_vector(v) for v in vectors)
    facts = IstSharedFacts(
        top=VirtAddr(top),
        vectors=tuple(vectors),
        ist=tuple(sorted(entries)),
        cpu=cpu,
        names=names,
    )
    return Finding(IST_SHARED, "+".join(names), facts, Where(va=top - 8))
