"""Kernel stacks proved: every page of every stack, in every audited space, against the master."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from breenix_gdbagent.addresses import PAGE, hex64
from breenix_gdbagent.checks.finding import Code, Finding, NotChecked, Where, declare
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.stacks import KernelStack, Leaf
from breenix_gdbagent.kernel.view import Kernel

SKILL = "kernel/src/memory/kernel_stack.rs"

UNMAPPED = declare(
    "kernel-stack.unmapped",
    "error",
    "a kernel stack is not mapped in every address space",
    arises="A process PML4 was built before the stack's tables existed, or has a slot 402 of its "
    "own: the next interrupt or system call taken under that CR3 pushes onto nothing "
    "(Breenix d90ed3bd, 05889549, 781251e9).",
    confirm="pt walk TOP-8 --root ROOT shows the level at which the walk ends; the same walk under "
    "the master is mapped.",
    mend="Build the tables of PML4[402] in the master before the first process exists and copy the "
    "entry verbatim (kernel_page_table::build_master_kernel_pml4, ProcessPageTable::new).",
    see=("kernel/src/memory/kernel_page_table.rs", "kernel/src/memory/process_memory.rs", SKILL),
)
READ_ONLY = declare(
    "kernel-stack.read-only",
    "error",
    "a kernel stack page cannot be written",
    arises="W is clear at some level above the page; with CR0.WP set the push of an exception frame "
    "faults.",
    confirm="pt walk VA shows which level lacks W.",
    mend="Map stack pages PRESENT|WRITABLE|NO_EXECUTE at the leaf and writable at every level.",
    see=(SKILL,),
)
USER_ACCESSIBLE = declare(
    "kernel-stack.user-accessible",
    "error",
    "ring 3 can reach a kernel stack",
    arises="U is set at every level down to the page: a process reads and writes return addresses "
    "of the kernel.",
    confirm="pt walk VA shows U at all levels.",
    mend="Never set USER_ACCESSIBLE in kernel slots; parent flags are OR-ed in by map_to.",
    see=(SKILL,),
)
DIFFERS = declare(
    "kernel-stack.differs",
    "error",
    "a kernel stack is another frame in one address space",
    arises="A process holds its own tables for the stack region: what is pushed under one CR3 is "
    "not there under the other.",
    confirm="pt walk VA under both roots gives two physical addresses.",
    mend="Share the master's PML4[402] entry instead of copying tables.",
    see=("kernel/src/memory/process_memory.rs",),
)
ALIASED = declare(
    "kernel-stack.aliased",
    "error",
    "two kernel stacks lie on one frame",
    arises="A frame was given out twice, or a stack slot was mapped over another's frames: two "
    "threads overwrite each other's frames.",
    confirm="pt who FRAME lists both addresses.",
    mend="Look for a frame freed while mapped, or a slot allocated twice (STACK_BITMAP).",
    see=(SKILL, "kernel/src/memory/frame_allocator.rs"),
)
GUARD_MAPPED = declare(
    "kernel-stack.guard-mapped",
    "error",
    "the guard page below a kernel stack is mapped",
    arises="A mapping call covered one page too many, or another allocator uses the same "
    "addresses: an overflow runs silently into the neighbour.",
    confirm="pt walk GUARD is mapped.",
    mend="Leave the lowest page of each slot unmapped (kernel_stack::allocate_kernel_stack).",
    see=(SKILL,),
)
EXECUTABLE = declare(
    "kernel-stack.executable",
    "warning",
    "a kernel stack can be executed",
    arises="The leaf was mapped without NO_EXECUTE. Breenix maps its IST stacks that way.",
    confirm="pt walk VA shows no NX at any level.",
    mend="Add NO_EXECUTE to the stack's leaf flags (kernel/src/memory/per_cpu_stack.rs).",
    see=("kernel/src/memory/per_cpu_stack.rs",),
)
IST_UNMAPPED = declare(
    "ist.unmapped",
    "error",
    "an IST stack is not mapped",
    arises="The page that the CPU pushes the exception frame onto is absent in some space: the "
    "exception cannot be delivered there and becomes a double, then a triple fault.",
    confirm="pt walk TOP-8 --root ROOT.",
    mend="Map the IST stacks through the master's PML4[403] before the IDT is loaded, and share "
    "that entry with every process.",
    see=("kernel/src/memory/per_cpu_stack.rs", "kernel/src/gdt.rs"),
)


@dataclass(slots=True)
class _Defect:
    """One code on one stack, in the spaces where it holds."""

    code: Code
    stack: KernelStack
    where: Where
    spaces: list[Space] = field(default_factory=list)
    pages: set[int] = field(default_factory=set)
    evidence: dict[str, Json] = field(default_factory=dict)


def check(kernel: Kernel) -> Iterator[Finding]:
    """Every kernel and IST stack in the master and every audited process space."""
    if kernel.master is None:
        raise NotChecked("no Breenix per-CPU block: the master PML4 is not known")
    if kernel.era is None and not kernel.ist:
        raise NotChecked("no kernel stack is mapped and the TSS names none")
    defects: dict[tuple[str, str], _Defect] = {}
    for stacks, leaves_of in (
        (kernel.stacks, kernel.kernel_leaves),
        (kernel.ist, kernel.ist_leaves),
    ):
        try:
            model = leaves_of(kernel.master.root)
        except ReadError as lacking:
            raise NotChecked(f"tables of the master: {lacking}") from lacking
        for space in kernel.audited:
            try:
                mine = leaves_of(space.root)
            except ReadError as lacking:
                raise NotChecked(f"tables of {space.label}: {lacking}") from lacking
            for stack in stacks:
                if not _being_built(kernel, stack, model):
                    _compare(kernel, stack, space, mine, model, defects)
    for defect in defects.values():
        yield _finding(kernel, defect)
    yield from _aliases(kernel, kernel.kernel_leaves(kernel.master.root))


def _being_built(kernel: Kernel, stack: KernelStack, model: Mapping[int, Leaf]) -> bool:
    """A slot that no CPU uses and whose mapped pages are a run from its bottom is one that the
    allocator is filling right now (it maps upwards, one page at a time): not a defect."""
    if stack.ist is not None:
        return False
    pages = [va for va in stack.pages if va in model]
    if len(pages) == len(stack.pages) or not pages:
        return False
    tops = {p.kernel_stack_top for p in kernel.percpus} | {t.rsp0 for t in kernel.tss.values()}
    used = stack.top in tops or any(stack.holds(c.rsp) for c in kernel.stop.cpus)
    return not used and pages == list(stack.pages)[: len(pages)]


def _compare(
    kernel: Kernel,
    stack: KernelStack,
    space: Space,
    mine: Mapping[int, Leaf],
    model: Mapping[int, Leaf],
    defects: dict[tuple[str, str], _Defect],
) -> None:
    """Enter what is wrong with `stack` under `space` into `defects`."""

    def note(code: Code, va: int, leaf: Leaf | None) -> None:
        key = (code.name, stack.name)
        if key not in defects:
            walk = kernel.walk(space.root, va)
            last = walk.entries[-1] if walk.entries else None
            defects[key] = _Defect(
                code,
                stack,
                Where(
                    space.root,
                    va,
                    walk.pa,
                    last.raw if last else None,
                    last.entry_pa if last else None,
                    walk.stopped_at if walk.stopped_at else (last.level if last else None),
                ),
            )
        defect = defects[key]
        if space not in defect.spaces:
            defect.spaces.append(space)
        defect.pages.add(va)

    for va in stack.pages:
        leaf = mine.get(va)
        if leaf is None:
            note(IST_UNMAPPED if stack.ist is not None else UNMAPPED, va, None)
            continue
        if not leaf.w:
            note(READ_ONLY, va, leaf)
        if leaf.u:
            note(USER_ACCESSIBLE, va, leaf)
        if not leaf.nx and kernel.nxe is not False:
            note(EXECUTABLE, va, leaf)
        right = model.get(va)
        if right is not None and right.frame != leaf.frame:
            note(DIFFERS, va, leaf)
    if stack.guard is not None and stack.guard in mine:
        note(GUARD_MAPPED, stack.guard, mine[stack.guard])


def _finding(kernel: Kernel, defect: _Defect) -> Finding:
    stack, where = defect.stack, defect.where
    pages = sorted(defect.pages)
    everywhere = len(defect.spaces) == len(kernel.audited)
    names = "every address space" if everywhere else ", ".join(s.label for s in defect.spaces)
    master = kernel.master
    evidence: dict[str, Json] = {
        "stack": stack.name,
        "bottom": hex64(stack.bottom),
        "top": hex64(stack.top),
        "pages": len(pages),
        "first_page": hex64(pages[0]),
        "last_page": hex64(pages[-1]),
        "spaces": [
            {"root": hex64(s.root), "role": s.role, "pid": s.pid, "name": s.name}
            for s in defect.spaces
        ],
    }
    if master is not None and where.va is not None:
        right = kernel.walk(master.root, where.va)
        evidence["master_pa"] = hex64(right.pa) if right.pa is not None else None
    what = f"{stack.name} ({hex64(stack.bottom)}-{hex64(stack.top)})"
    count = f"{len(pages)} of {stack.size // PAGE} pages" if len(pages) > 1 else "one page"
    subject = f"{stack.name}" if everywhere else "+".join(sorted(s.subject for s in defect.spaces))
    return Finding(
        defect.code,
        f"{defect.code.title}: {what}, {count} in {names}",
        subject,
        evidence,
        where,
        fix=defect.code.mend,
    )


def _aliases(kernel: Kernel, model: Mapping[int, Leaf]) -> Iterator[Finding]:
    """Frames that the master maps into more than one stack."""
    owners: dict[int, list[int]] = defaultdict(list)
    inside = {va for stack in kernel.stacks for va in stack.pages}
    for va, leaf in model.items():
        if va in inside:
            owners[leaf.frame].append(va)
    reported: set[tuple[str, ...]] = set()
    for frame, places in sorted(owners.items()):
        if len(places) < 2:
            continue
        names = tuple(sorted({s.name for s in kernel.stacks for va in places if va in s.pages}))
        if names in reported:
            continue
        reported.add(names)
        leaf = model[places[1]]
        yield Finding(
            ALIASED,
            f"{' and '.join(names)} lie on one frame, {hex64(frame)}",
            "+".join(names),
            {"frame": hex64(frame), "addresses": [hex64(va) for va in places]},
            Where(
                kernel.master.root if kernel.master else None,
                places[1],
                frame,
                leaf.raw,
                leaf.entry_pa,
                1,
            ),
            fix=ALIASED.mend,
        )
