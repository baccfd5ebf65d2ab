"""Phrases for what lies at an address, who ran there, and what a walk or an error code says."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.walks import Entry, Walk
from breenix_gdbagent.checks.facts import Place
from breenix_gdbagent.checks.faults import address_kind as kinds
from breenix_gdbagent.checks.faults.address_kind import AddressKind
from breenix_gdbagent.checks.faults.interrupted import (
    Interrupted,
    PageFaultCode,
    RingMismatch,
    SelectorErrorCode,
)
from breenix_gdbagent.cpumodel.context import Raised
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.stacks import KernelStack
from breenix_gdbagent.report.wording.base import at, phrases
from breenix_gdbagent.x86.exceptions import SelectorCode
from breenix_gdbagent.x86.paging import LEVEL

_PLAIN = {
    kinds.NON_CANONICAL: "no canonical address",
    kinds.NULL_PAGE: "the first 64 KiB, where a null pointer plus an offset leads",
    kinds.PER_CPU: "a per-CPU block",
    kinds.HEAP: "the kernel heap",
    kinds.LOWER_HALF: "the lower half of the address space, where nothing is mapped",
    kinds.UPPER_HALF: "the upper half of the address space, where nothing is mapped",
}
_ERROR_BITS = (
    (0, "P", "a page was there and refused it", "no page was there"),
    (1, "W", "it was a write", "it was no write"),
    (2, "U", "it was made as ring 3", "it was made as ring 0"),
    (3, "RSVD", "an entry has reserved bits set", ""),
    (4, "I", "it was an instruction fetch", ""),
    (5, "PK", "a protection key forbade it", ""),
    (6, "SS", "it was a shadow-stack access", ""),
    (15, "SGX", "SGX forbade it", ""),
)


@phrases(AddressKind)
def address(kind: AddressKind) -> str:
    """As in "is in ...": ``the guard page of kernel stack slot 3``."""
    if kind.name in _PLAIN:
        return _PLAIN[kind.name]
    if kind.name in kinds.TABLES:
        return f"the {kind.name.upper()} of CPU {kind.cpu}"
    if kind.stack is not None and kind.part == "run":
        return _below_a_run(kind.stack)
    if kind.stack is not None:
        return _stack(kind, kind.stack.name)
    if kind.name == kinds.STACK_REGION:
        ist = "the region of the IST stacks, in none of them"
        return ist if kind.part == "ist" else "the region of the kernel stacks, in no slot"
    if kind.name == kinds.IMAGE:
        named = ", ".join(one for one in (kind.symbol, kind.section) if one)
        return f"the kernel image ({named})" if named else "the kernel image"
    if kind.name == kinds.DIRECT_MAP:
        return f"the direct map (physical {hex64(kind.physical or 0)})"
    if kind.name == kinds.MAPPED:
        whose = "memory that ring 3 may use" if kind.part == "user" else "memory of ring 0 alone"
        return f"{whose} (physical {hex64(kind.physical or 0)})"
    if kind.name == kinds.KERNEL:
        beside = kind.part == "beside-heap"
        return f"the kernel's addresses{' beside the heap' if beside else _NOTHING_KNOWN}"
    return _of_a_process(kind)


_NOTHING_KNOWN = ", where nothing known lies"


def _below_a_run(stack: KernelStack) -> str:
    return f"the unmapped page below the stack that begins at {hex64(stack.bottom)}"


def _stack(kind: AddressKind, name: str) -> str:
    if kind.name == kinds.IST_STACK:
        return f"the stack {name}"
    if kind.name == kinds.BELOW_IST:
        return f"just below the stack {name}"
    if kind.cpu is not None:
        name += f" (the current thread's on CPU {kind.cpu})"
    if kind.free:
        name += ", which is not in use"
    guard = "the guard page of " if kind.name == kinds.GUARD_PAGE else ""
    return f"{guard}kernel stack {name}"


def _of_a_process(kind: AddressKind) -> str:
    owner = f"of {kind.space.label}" if kind.space is not None else "of no known process"
    if kind.name == kinds.USER_STACK:
        return f"the user-stack region {owner}"
    part = {"image": "the program's code and data", "mmap": "the mmap region"}.get(kind.part)
    return f"{part or 'user addresses'} {owner}"


@phrases(Place)
def place(where: Place) -> str:
    """An address with its symbol."""
    return at(where.va, where.symbol)


@phrases(Raised)
def event(raised: Raised) -> str:
    """As a chain has it."""
    return raised.text


@phrases(PageFaultCode)
def error_bits(code: PageFaultCode) -> list[Json]:
    """A page-fault error code bit by bit (SDM vol. 3, figure 4-12): what is set, and P, W, U
    also when they are clear."""
    words: list[Json] = []
    for bit, name, yes, no in _ERROR_BITS:
        if code.value >> bit & 1:
            words.append(f"{name}=1: {yes}")
        elif no:
            words.append(f"{name}=0: {no}")
    return words


@phrases(SelectorErrorCode)
def selector_error(code: SelectorErrorCode) -> str:
    """A selector error code in words (SDM vol. 3, 6.13): table, index, external."""
    if code.value == 0:
        return "error code 0: no selector is to blame"
    said = SelectorCode(code.value)
    external = ", met while delivering another event (EXT)" if said.external else ""
    if said.table == "idt":
        return f"error code {hex64(code.value)}: IDT entry {said.index}{external}"
    table, selector = said.table.upper(), hex64(said.selector)
    place = f"{table} entry {said.index} (selector {selector})"
    return f"error code {hex64(code.value)}: {place}{external}"


@phrases(RingMismatch)
def mismatch(found: RingMismatch) -> str:
    """Which ring runs where it should not."""
    if found.ring == 3:
        return f"ring 3 runs at {place(found.at)}, in the kernel"
    return f"ring 0 runs at {hex64(found.at.va)}, in memory of a process"


def who(program: Interrupted) -> str:
    """Who ran: ``process init (pid 1) in ring 3``, ``the kernel in the space of init (pid 1)``."""
    space = program.process
    label = space.label if space is not None else f"CR3 {hex64(program.cr3)}"
    narrow = ""
    if program.before:
        return "the firmware or its boot loader"
    if program.code_32:
        narrow = f", run as 32-bit code (CS {hex64(program.frame.cs)} has no L bit),"
    if program.ring == 3:
        named = space is not None and space.name is not None
        return f"process {label} in ring 3{narrow}" if named else f"{label} in ring 3{narrow}"
    if space is not None and space.role == "master":
        return f"the kernel{narrow}"
    if space is not None and space.role == "boot":
        return f"the kernel on {label}{narrow}"
    if space is None or space.role == "unknown":
        return f"the kernel under {label}{narrow}"
    return f"the kernel in the space of {label}{narrow}"


def rip_of(program: Interrupted) -> str:
    """RIP with its symbol."""
    return at(program.rip, program.symbol)


def entry_words(entry: Entry) -> str:
    """Which entry, where, and what it is."""
    return f"the {_table(entry)} entry at {hex64(entry.entry_pa)} is {hex64(entry.raw)}"


def walk_picture(walk: Walk) -> str:
    """The walk drawn, a line a level, and where it ended."""
    lines = [
        f"{_short(e):<5}[{_index(e):>3}] at {hex64(e.entry_pa)} = "
        f"{hex64(e.raw)}  {' '.join(e.flags) or '-'}"
        for e in walk.entries
    ]
    if walk.pa is not None and walk.effective is not None:
        may = walk.effective
        rights = ("W" if may.w else "-") + ("U" if may.u else "-") + ("-" if may.nx else "X")
        rights = f"EL1 {may.el1} EL0 {may.el0}" if may.el1 else rights
        lines.append(f"-> {hex64(walk.pa)}, over all levels {rights}")
    elif walk.stopped_at is not None:
        table = f"level {walk.stopped_at} table"
        table = table if walk.format else LEVEL[walk.stopped_at].name
        lines.append(f"-> ends at the {table}: {walk.reason}")
    else:
        lines.append(f"-> {walk.reason}")
    return "\n".join(lines)


def _table(entry: Entry) -> str:
    """What the table of an entry is called."""
    return LEVEL[entry.level].name if entry.index is None else f"level {entry.level}"


def _short(entry: Entry) -> str:
    return LEVEL[entry.level].name if entry.index is None else f"L{entry.level}"


def _index(entry: Entry) -> int:
    return (entry.entry_pa & 0xFFF) // 8 if entry.index is None else entry.index


def sentence(*parts: str) -> str:
    """The parts that say something as one paragraph, each beginning with a capital."""
    return " ".join(p[0].upper() + p[1:] for p in parts if p)
