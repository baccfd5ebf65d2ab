"""Kernel stacks proved: every page of every stack, in every audited space, against the master.

A space whose top-level entry is the master's own is proved by that; the pages are looked at once
for each entry that differs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr, hex64
from breenix_gdbagent.arch.walks import UNREADABLE
from breenix_gdbagent.checks.completeness import require_finished_tables
from breenix_gdbagent.checks.facts import ASIDE, SPREAD, Facts
from breenix_gdbagent.checks.finding import (
    Code,
    Finding,
    NotChecked,
    Where,
    declare,
    place_of,
)
from breenix_gdbagent.checks.reasons import NotRead, Reason, StackInTransit, State, TablesNotRead
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.stacks import KernelStack, Leaf
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import SHAPE, index_at, indexes_naming, present

UNMAPPED = declare(
    "kernel-stack.unmapped",
    "error",
    "a kernel stack is not mapped in every address space",
    arises="A process's tables were built before the stack's tables existed, or have a top-level "
    "entry of their own there: the next interrupt or system call taken under that CR3 pushes onto "
    "nothing.",
    confirm="pt walk TOP-8 --root ROOT shows the level at which the walk ends; the same walk under "
    "the master is mapped.",
    mend="Build the tables of the stacks' region in the master before the first process exists "
    "and copy its top-level entry verbatim into every process.",
)
READ_ONLY = declare(
    "kernel-stack.read-only",
    "error",
    "a kernel stack page cannot be written",
    arises="W is clear at some level above the page; with CR0.WP set the push of an exception "
    "frame faults.",
    confirm="pt walk VA shows which level lacks W.",
    mend="Map stack pages writable and not executable at the leaf, and writable at every level.",
)
USER_ACCESSIBLE = declare(
    "kernel-stack.user-accessible",
    "error",
    "ring 3 can reach a kernel stack",
    arises="U is set at every level down to the page: a process reads and writes return addresses "
    "of the kernel.",
    confirm="pt walk VA shows U at all levels.",
    mend="Never give the kernel's part of the tables U: at every level, the top-level entries too.",
)
DIFFERS = declare(
    "kernel-stack.differs",
    "error",
    "a kernel stack is another frame in one address space",
    arises="A process holds its own tables for the stack region: what is pushed under one CR3 is "
    "not there under the other.",
    confirm="pt walk VA under both roots gives two physical addresses.",
    mend="Share the master's top-level entry instead of copying tables.",
)
ALIASED = declare(
    "kernel-stack.aliased",
    "error",
    "two kernel stacks lie on one frame",
    arises="A frame was given out twice, or a stack slot was mapped over another's frames: two "
    "threads overwrite each other's frames.",
    confirm="pt who FRAME lists both addresses.",
    mend="Look for a frame freed while mapped, or a stack's place allocated twice.",
)
GUARD_MAPPED = declare(
    "kernel-stack.guard-mapped",
    "error",
    "the guard page below a kernel stack is mapped",
    arises="A mapping call covered one page too many, or another allocator uses the same "
    "addresses: an overflow runs silently into the neighbour.",
    confirm="pt walk GUARD is mapped.",
    mend="Leave the page below each stack unmapped.",
)
EXECUTABLE = declare(
    "kernel-stack.executable",
    "warning",
    "a kernel stack can be executed",
    arises="The leaf was mapped without NX.",
    confirm="pt walk VA shows no NX at any level.",
    mend="Set NX in the leaves of stacks.",
)
IST_UNMAPPED = declare(
    "ist.unmapped",
    "error",
    "an IST stack is not mapped",
    arises="The page that the CPU pushes the exception frame onto is absent in some space: the "
    "exception cannot be delivered there and becomes a double, then a triple fault.",
    confirm="pt walk TOP-8 --root ROOT.",
    mend="Map the IST stacks in the master before the IDT is loaded, and share that entry with "
    "every process.",
)


MOST_SHOWN = 64
_Leaves = Mapping[int, Leaf]
_Reader = Callable[[PhysAddr], _Leaves]


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterPage(Facts):
    """What the master has at the first of the pages."""

    master_pa: PhysAddr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFacts(Facts):
    """Pages of one stack that are wrong in some spaces, of which the first `MOST_SHOWN` are here;
    `everywhere`: in all that are audited. `whole` is the number of the stack's pages."""

    stack: str
    owners: tuple[str, ...]
    bottom: VirtAddr
    top: VirtAddr
    pages: int
    first_page: VirtAddr
    last_page: VirtAddr
    spaces: tuple[Space, ...]
    spaces_count: int
    master: Annotated[MasterPage | None, SPREAD] = None
    whole: Annotated[int, ASIDE]
    everywhere: Annotated[bool, ASIDE]

    @property
    def about(self) -> str:
        return self.stack


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasFacts(Facts):
    """Two stacks, or two pages of one, on the same frames. `stretch` is the IST stack that lies
    wholly in the other, where that is how they meet."""

    frame: PhysAddr | None
    frames: int
    addresses: tuple[VirtAddr, ...]
    stacks: tuple[str, ...]
    stretch: Annotated[KernelStack | None, ASIDE] = None


@dataclass(slots=True)
class _Defect:
    """One code on one stack, in the spaces where it holds."""

    code: Code
    stack: KernelStack
    where: Where
    roots: dict[int, Space] = field(default_factory=dict)
    pages: set[int] = field(default_factory=set)

    @property
    def spaces(self) -> list[Space]:
        return list(self.roots.values())


def check(kernel: Kernel) -> Iterator[Finding]:
    """Every kernel and IST stack in the master and every audited space."""
    if kernel.master is None:
        raise NotChecked(NotRead(kernel.no_master))
    if kernel.era is None:
        raise NotChecked(State.NO_KERNEL_STACK_YET)
    defects: dict[tuple[str, str], _Defect] = {}
    lacking: list[Reason] = []
    for compared in compare(kernel):
        if compared.reason is not None:
            lacking.append(compared.reason)
        for code, pages in compared.wrong.items():
            _enter(kernel, code, compared, pages, defects)
    for defect in defects.values():
        yield _finding(kernel, defect)
    yield from _aliases(kernel, kernel.master)
    yield from _inside_another(kernel, kernel.master)
    if lacking:
        raise NotChecked(lacking[0])
    require_finished_tables(kernel)


@dataclass(frozen=True, slots=True)
class Compared:
    """One stack under spaces that have the same tables for it: which pages are `wrong`, by code.
    `reason` says why it was not judged, where it was not (then nothing is wrong)."""

    stack: KernelStack
    spaces: Sequence[Space]
    wrong: Mapping[Code, Sequence[int]]
    reason: Reason | None = None


def compare(kernel: Kernel) -> Iterator[Compared]:
    """Every kernel and IST stack in the master and every audited space: what the check finds and
    what the stack matrix draws. Nothing where no master is known."""
    if kernel.master is None:
        return
    for stacks, read, slot in _kinds(kernel):
        try:
            model = read(kernel.master.root)
        except ReadError as error:
            lacking = TablesNotRead(None, error.what)
            yield from (Compared(stack, kernel.audited, {}, lacking) for stack in stacks)
            continue
        settled = [s for s in stacks if not _in_transit(kernel, s, model)]
        for stack in stacks:
            if stack not in settled:
                yield Compared(stack, kernel.audited, {}, StackInTransit(stack.name))
        for group in _groups(kernel, slot):
            try:
                mine = model if kernel.master in group else read(group[0].root)
            except ReadError as error:
                lacking = TablesNotRead(group[0].label, error.what)
                yield from (Compared(stack, group, {}, lacking) for stack in settled)
                continue
            right = None if _aliased(kernel, group[0], slot) else model
            for stack in settled:
                yield Compared(stack, group, _wrong(stack, mine, right, kernel.nxe))


def _kinds(kernel: Kernel) -> Iterator[tuple[Sequence[KernelStack], _Reader, int]]:
    """The stacks by region, how a space's pages there are read, and the region's top-level slot.
    An IST stack that lies elsewhere (a static array, another stack) is a region of its own."""
    layout = kernel.adapter.layout

    def slot_of(region: range) -> int:
        return index_at(region.start, kernel.levels)

    inside = [s for s in kernel.ist if kernel.ist_region.holds(s.top - 1)]
    regions = (
        (kernel.stacks, kernel.kernel_leaves, slot_of(layout.kernel_stacks)),
        (inside, kernel.ist_leaves, slot_of(layout.ist_stacks)),
    )
    yield from (region for region in regions if region[0])
    for stack in kernel.ist:
        if stack not in inside:
            yield (stack,), partial(_walked, kernel, stack), index_at(stack.bottom, kernel.levels)


def _walked(kernel: Kernel, stack: KernelStack, root: PhysAddr) -> _Leaves:
    """The pages of one stack that a root maps, of whatever size they are."""
    found: dict[int, Leaf] = {}
    for va in stack.pages:
        walk = kernel.walk(root, va)
        if walk.reason == UNREADABLE:
            raise ReadError(f"the way to {hex64(va)} is not in the memory we have")
        last, right = walk.leaf, walk.effective
        if last is not None and right is not None:
            found[va] = Leaf(last.target, last.raw, last.entry_pa, right.w, right.u, right.nx)
    return found


def _groups(kernel: Kernel, slot: int) -> list[list[Space]]:
    """The audited spaces by what their entry of `slot` says; the master's group first."""
    groups: dict[int, list[Space]] = defaultdict(list)
    for space in kernel.audited:
        try:
            key = int(kernel.tables.table(space.root)[slot] & SHAPE)
        except ReadError:
            key = ~space.root  # of no group: who reads its stacks is told why not
        groups[key].append(space)
    return sorted(groups.values(), key=lambda group: kernel.master not in group)


def _aliased(kernel: Kernel, space: Space, slot: int) -> bool:
    """Whether the space names, in the slot of these stacks, a table that the master has elsewhere:
    then that is what is wrong (kernel-slot.aliased, or the bootloader's root, whose whole upper
    half is one table), and not each frame of it."""
    raw = kernel.tables.table(space.root)[slot]
    assert kernel.master is not None
    model = kernel.tables.table(kernel.master.root)
    return present(raw) and any(other != slot for other in indexes_naming(raw, model.tolist()))


def _in_transit(kernel: Kernel, stack: KernelStack, model: _Leaves) -> bool:
    """A slot that no CPU and no thread uses, of which a run of pages from its bottom (being mapped:
    allocate_kernel_stack goes upwards) or up to its top (being unmapped: KernelStack::drop, since
    2026) is there: the allocator stands in the middle of it."""
    if stack.ist is not None:
        return False
    there = [va for va in stack.pages if va in model]
    if len(there) == len(stack.pages) or not there:
        return False
    pages = list(stack.pages)
    if there != pages[: len(there)] and there != pages[-len(there) :]:
        return False
    tops = {p.kernel_stack_top for p in kernel.percpus} | {t.rsp0 for t in kernel.tss.values()}
    running = any(stack.holds(c.rsp) for c in kernel.stop.cpus)
    return not (stack.top in tops or running or kernel.owners_of(stack))


def _wrong(
    stack: KernelStack, mine: _Leaves, model: _Leaves | None, nxe: bool | None
) -> dict[Code, list[int]]:
    """The pages of `stack` that are wrong in `mine`, by code. `model` None: the tables are another
    region's, and only what is missing or may be done there counts."""
    found: dict[Code, list[int]] = {}
    for va in stack.pages:
        leaf = mine.get(va)
        if leaf is None:
            found.setdefault(IST_UNMAPPED if stack.ist is not None else UNMAPPED, []).append(va)
            continue
        if not leaf.w:
            found.setdefault(READ_ONLY, []).append(va)
        if leaf.u:
            found.setdefault(USER_ACCESSIBLE, []).append(va)
        if not leaf.nx and nxe is not False:
            found.setdefault(EXECUTABLE, []).append(va)
        right = None if model is None else model.get(va)
        if right is not None and right.frame != leaf.frame:
            found.setdefault(DIFFERS, []).append(va)
    if stack.guard is not None and stack.guard in mine and model is not None:
        found[GUARD_MAPPED] = [stack.guard]
    return found


def _enter(
    kernel: Kernel,
    code: Code,
    compared: Compared,
    pages: Sequence[int],
    defects: dict[tuple[str, str], _Defect],
) -> None:
    """Adds these pages to the defect of that code and stack; its place is the first of all."""
    stack, spaces = compared.stack, compared.spaces
    key = (code.name, stack.name)
    if key not in defects:
        defects[key] = _Defect(code, stack, place_of(kernel.walk(spaces[0].root, pages[0])))
    defects[key].pages.update(pages)
    defects[key].roots.update((space.root, space) for space in spaces)


def _finding(kernel: Kernel, defect: _Defect) -> Finding:
    stack, where, spaces = defect.stack, defect.where, defect.spaces
    pages = sorted(defect.pages)
    everywhere = len(spaces) == len(kernel.audited)
    master = None
    if kernel.master is not None and where.va is not None:
        master = MasterPage(master_pa=kernel.walk(kernel.master.root, where.va).pa)
    facts = StackFacts(
        stack=stack.name,
        owners=kernel.owners_of(stack),
        bottom=stack.bottom,
        top=stack.top,
        pages=len(pages),
        first_page=VirtAddr(pages[0]),
        last_page=VirtAddr(pages[-1]),
        spaces=tuple(spaces[:MOST_SHOWN]),
        spaces_count=len(spaces),
        master=master,
        whole=stack.size // PAGE,
        everywhere=everywhere,
    )
    lone = len(spaces) == 1 and not everywhere
    return Finding(defect.code, spaces[0].subject if lone else stack.subject, facts, where)


def _aliases(kernel: Kernel, master: Space) -> Iterator[Finding]:
    """Frames that the master maps into more than one stack."""
    stack_of = {va: s.name for s in (*kernel.stacks, *kernel.ist) for va in s.pages}
    leaves = {**kernel.kernel_leaves(master.root), **kernel.ist_leaves(master.root)}
    first: dict[int, int] = {}
    shared: dict[int, list[int]] = {}
    for va, leaf in leaves.items():
        if va in stack_of and (known := first.setdefault(leaf.frame, va)) != va:
            shared.setdefault(leaf.frame, [known]).append(va)
    pairs: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for frame, places in sorted(shared.items()):
        pairs[tuple(sorted({stack_of[va] for va in places}))].append(frame)
    for names, frames in pairs.items():
        places = shared[frames[0]]
        va, leaf = places[-1], leaves[places[-1]]
        yield Finding(
            ALIASED,
            "+".join(name.partition(" (")[0] for name in names),
            AliasFacts(
                frame=PhysAddr(frames[0]),
                frames=len(frames),
                addresses=tuple(VirtAddr(at) for at in places),
                stacks=names,
            ),
            Where(master.root, va, frames[0], leaf.raw, leaf.entry_pa, 1),
        )


def _inside_another(kernel: Kernel, master: Space) -> Iterator[Finding]:
    """IST stacks that lie in the stack of a thread."""
    for ist in kernel.ist:
        for stack in kernel.stacks:
            if ist.bottom >= stack.top or stack.bottom >= ist.top:
                continue
            where = place_of(kernel.walk(master.root, ist.top - PAGE))
            facts = AliasFacts(
                frame=None if where.pa is None else PhysAddr(where.pa),
                frames=ist.size // PAGE,
                addresses=tuple(VirtAddr(va) for va in ist.pages)[:MOST_SHOWN],
                stacks=(ist.name, stack.name),
                stretch=ist,
            )
            yield Finding(ALIASED, f"{ist.subject}+{stack.subject}", facts, where)
