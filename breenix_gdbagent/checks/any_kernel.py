"""What TR, the descriptor tables and CR3 alone prove, whichever kernel runs: the checks `tss`,
`stack-place` and `kernel-slots` of a kernel that no adapter describes.

Only what the CPU itself is going to need is judged, under the CR3 that it needs it under.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from breenix_gdbagent.addresses import PAGE, VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.walks import UNREADABLE
from breenix_gdbagent.checks.facts import ASIDE, Facts, Place
from breenix_gdbagent.checks.faults.descriptors import RSP0_INVALID
from breenix_gdbagent.checks.finding import Code, Finding, NotChecked, Where, place_of
from breenix_gdbagent.checks.kernel_stacks import IST_UNMAPPED
from breenix_gdbagent.checks.reasons import IdtNotRead, State, TableNotReached
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.running import Running, running
from breenix_gdbagent.kernel.stack_bottom import returns_on
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.control import CR0_WP
from breenix_gdbagent.x86.vectors import VECTOR_NAMES

Flaw = Literal["not-set", "unmapped", "read-only"]
_MASK = (1 << 64) - 1
_OF_FEATURES = (20, 21, 28, 29, 30)
"""#VE, #CP, #HV, #VC, #SX come only with virtualization, shadow stacks or SEV: Linux has a gate for
#VC on every machine, and its stack on AMD's only."""
_CALLED_WITHIN = 0x1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TopFacts(Facts):
    """The top of a stack in a CPU's TSS (`stack`: ``RSP0``, ``IST1``) that cannot be pushed onto;
    `vectors` are the exceptions that go there, none for RSP0, where all others do from ring 3."""

    cpu: int
    stack: str
    top: VirtAddr
    vectors: tuple[int, ...]
    flaw: Annotated[Flaw, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStackFacts(Facts):
    """A CPU in ring 0 whose RSP is in memory that ring 3 may use; `left` is a return address of the
    kernel's on it, None where an exception's frame was pushed there."""

    cpu: int
    rsp: VirtAddr
    rip: VirtAddr
    symbol: str | None
    left: Annotated[Place | None, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFacts(Facts):
    """A table of a CPU's that ring 3 may use: ``IDT``, ``GDT``, ``TSS``, or the stack at RSP0."""

    cpu: int
    holds: str
    va: VirtAddr


def check_tss(kernel: Kernel) -> Iterator[Finding]:
    """The stacks that the TSS of each CPU has for what may come next: RSP0 while it is in ring 3,
    and those of the IST that gates use."""
    if not kernel.tss:
        raise NotChecked(State.NO_TSS)
    try:
        gates = kernel.gates
    except ReadError as lacking:
        raise NotChecked(IdtNotRead(lacking.what)) from lacking
    used: dict[int, list[int]] = {}
    for vector, gate in gates.items():
        if gate.ist and vector not in _OF_FEATURES:
            used.setdefault(gate.ist, []).append(vector)
    for cpu in kernel.stop.cpus:
        tss, here = kernel.tss.get(cpu.index), running(kernel, cpu)
        if tss is None or here is None or cpu.root is None or cpu.paging is None:
            continue
        if here.cpl == 3:
            yield from _top(kernel, cpu, "RSP0", tss.rsp0, ())
        if here.cpl == 3 or here.interrupts_on:  # else it may still be making them
            for number, vectors in sorted(used.items()):
                top = tss.ist[number - 1]
                yield from _top(kernel, cpu, f"IST{number}", top, tuple(sorted(vectors)))


def _top(
    kernel: Kernel, cpu: Cpu, stack: str, top: int, vectors: tuple[int, ...]
) -> Iterator[Finding]:
    assert cpu.root is not None
    way = kernel.walk(cpu.root, (top & -16) - 8 & _MASK)
    if way.reason == UNREADABLE:
        raise NotChecked(TableNotReached(stack, cpu.index, way.va))
    flaw: Flaw | None = None
    if not top:
        flaw = "not-set"
    elif way.effective is None:
        flaw = "unmapped"
    elif not way.effective.w and (cpu.get("cr0") or 0) & CR0_WP:
        flaw = "read-only"
    if flaw is None:
        return
    facts = TopFacts(cpu=cpu.index, stack=stack, top=VirtAddr(top), vectors=vectors, flaw=flaw)
    code = IST_UNMAPPED if vectors else RSP0_INVALID
    names = "+".join(VECTOR_NAMES.get(v, f"vector {v}") for v in vectors)
    yield Finding(code, f"{stack} ({names})" if vectors else "TSS", facts, place_of(way))


def check_place(kernel: Kernel, foreign: Code) -> Iterator[Finding]:
    """No CPU in ring 0 has called, or been interrupted, with RSP in memory of ring 3: `syscall`
    leaves RSP as it was, and entry code changes it before it calls anything. `foreign` is the code
    of what is found."""
    for cpu in kernel.stop.cpus:
        here = running(kernel, cpu)
        if here is None or here.cpl or cpu.root is None or cpu.paging is None:
            continue
        if not _is_users(kernel, cpu.root, here.rsp) or _is_users(kernel, cpu.root, here.rip):
            continue  # a kernel whose own code is open to ring 3 has no memory apart
        calls = returns_on(kernel, cpu.root, here.rsp & -8, (here.rsp & -8) + _CALLED_WITHIN)
        left = next((word for _, word in calls), None)
        if left is None and not _pushed_there(kernel, here):
            continue
        place = None if left is None else Place(left, kernel.symbol(left - 1))
        yield _foreign(kernel, foreign, here, place)


def _foreign(kernel: Kernel, code: Code, here: Running, left: Place | None) -> Finding:
    facts = UserStackFacts(
        cpu=here.cpu.index,
        rsp=here.rsp,
        rip=here.rip,
        symbol=kernel.symbol(here.rip),
        left=left,
    )
    return Finding(code, "user stack", facts, Where(here.cpu.root, here.rsp), advice=_OWN_STACK)


_OWN_STACK = (
    "Switch to the thread's kernel stack before anything is pushed: an interrupt gate does it from "
    "RSP0, and by hand (swapgs, then mov rsp) where `syscall` enters."
)


def _pushed_there(kernel: Kernel, here: Running) -> bool:
    """Whether an exception that is about to be handled has left its frame on that stack."""
    vector = kernel.stop.reason.vector
    try:
        gate = None if vector is None or not here.interrupted else kernel.gates.get(vector)
    except ReadError:
        return False
    return gate is not None and not gate.ist


def _is_users(kernel: Kernel, root: int, va: int) -> bool:
    """Whether ring 3 may use the page of `va`, or the one above it where that is not mapped."""
    right = kernel.walk(root, va).effective or kernel.walk(root, va + PAGE & _MASK).effective
    return right is not None and right.u


def check_slots(kernel: Kernel, open_: Code) -> Iterator[Finding]:
    """Nothing that the CPU itself relies on is open to ring 3, where ring 3 is used (RSP0 is set):
    which slots are the kernel's, another kernel's tables do not say. `open_` is the code of what is
    found."""
    looked = False
    for cpu in kernel.stop.cpus:
        tss = kernel.tss.get(cpu.index)
        if tss is None or not tss.rsp0 or cpu.root is None or cpu.paging is None:
            continue
        looked = True
        places = [("IDT", cpu.idtr), ("GDT", cpu.gdtr), ("TSS", cpu.tr)]
        found = [(name, int(table.base)) for name, table in places if table is not None]
        for holds, va in (*found, ("stack at RSP0", tss.rsp0 - 8 & _MASK)):
            way = kernel.walk(cpu.root, va)
            if way.effective is not None and way.effective.u:
                facts = OpenFacts(cpu=cpu.index, holds=holds, va=VirtAddr(va))
                yield Finding(open_, holds, facts, place_of(way))
    if not looked:
        raise NotChecked(State.NO_RING_3)
