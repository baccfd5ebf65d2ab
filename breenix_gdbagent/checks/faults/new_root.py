"""A CR3 under which nothing goes on: the ``mov cr3`` that loaded it, and what it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr
from breenix_gdbagent.checks.facts import Place
from breenix_gdbagent.cpumodel.context import Context
from breenix_gdbagent.cpumodel.selectors import runs_32_bit
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import table_named

_GENERAL = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
_MOV_CR3 = b"\x0f\x22"
_REX_B = 0x41
_REACH = 4
TOP_2_GIB = 1 << 31
_NO_FLUSH = 1 << 63


@dataclass(frozen=True, slots=True)
class Loaded:
    """The instruction that loaded CR3: where, and from which register."""

    at: Place
    register: str


@dataclass(frozen=True, slots=True)
class NoTable:
    """What a CR3 names instead of a page table: no RAM, a page of zeros, or `words` words that are
    not 0 and of which most, all but `entries`, cannot be an entry that leads to a table."""

    what: Literal["no-ram", "zeros", "other"]
    words: int = 0
    entries: int = 0


@dataclass(frozen=True, slots=True)
class NewRoot:
    """A CR3 that maps neither the code that runs nor the rest of what the CPU runs on: `lost`
    names what of RIP, RSP, IDT and GDT, RIP first. `earlier`: there is no table (any more),
    and the instruction before RIP, which is known, did not load CR3."""

    root: PhysAddr
    lost: tuple[str, ...]
    no_table: NoTable | None
    loaded: Loaded | None
    earlier: bool = False


def new_root(kernel: Kernel, context: Context, cr2: int) -> NewRoot | None:
    """What is known of the CR3 under which ring 0 could not fetch RIP; None for another fault, and
    where RIP alone leads nowhere, which is a wild jump and no wrong CR3."""
    if context.cpl or cr2 != context.rip or runs_32_bit(context):
        return None
    cpu = context.cpu
    places = [("RIP", context.rip), ("RSP", (context.rsp - 8) & (1 << 64) - 1)]
    tables = (("IDT", cpu.idtr), ("GDT", cpu.gdtr))
    places += [(name, table.base) for name, table in tables if table is not None]
    lost = tuple(name for name, va in places if not kernel.walk(context.root, va).mapped)
    if lost[:1] != ("RIP",) or len(lost) == 1:
        return None
    root = PhysAddr(context.root)
    loaded = loaded_by(kernel, context)
    image = kernel.stop.image
    known = image is not None and image.holds(context.rip)
    instead = no_table(kernel, root)
    earlier = known and loaded is None and instead is not None
    return NewRoot(root, lost, instead, loaded, earlier)


def no_table(kernel: Kernel, root: PhysAddr) -> NoTable | None:
    """None where the page at `root` may be a table, or is not to be had."""
    ram = kernel.stop.memory.ram
    try:
        table = kernel.tables.table(root)
    except ReadError:
        known = ram is not None and not ram.holds(root, PAGE)
        return NoTable("no-ram") if known else None
    used = [raw for raw in table if raw]
    lead = [at for raw in used if (at := table_named(kernel.levels, raw)) is not None]
    if ram is not None:
        lead = [at for at in lead if ram.holds(at, PAGE)]
    if 2 * len(lead) > len(used):
        return None
    return NoTable("other", len(used), len(lead)) if used else NoTable("zeros")


def loaded_by(kernel: Kernel, context: Context) -> Loaded | None:
    """The ``mov cr3`` just before RIP, whose register still has what CR3 has; None where the code
    there is not known, or is other."""
    cr3 = context.cpu.cr3
    for code in _before(kernel, context.rip):
        if cr3 is None or len(code) != _REACH or code[1:3] != _MOV_CR3 or code[3] & 0xF8 != 0xD8:
            continue
        for extended in (False, True) if code[0] & 0xF1 == _REX_B else (False,):
            register = _GENERAL[(code[3] & 7) + 8 * extended]
            value = context.registers.get(register)
            if value is not None and not (value ^ cr3) & ~_NO_FLUSH:
                at = VirtAddr(context.rip - 3 - extended)
                return Loaded(Place(at, kernel.symbol(at)), register)
    return None


def _before(kernel: Kernel, rip: int) -> Iterator[bytes]:
    """The bytes before `rip`: of the kernel's ELF, of every space that maps them, and of physical
    memory, where code that has just built its tables mostly runs, or 2 GiB below the top."""
    start = rip - _REACH
    image = kernel.stop.image
    if image is not None:
        yield image.image.read(image.link(start), _REACH) or b""
    for space in kernel.spaces:
        with suppress(ReadError):
            yield kernel.memory_of(space.root).read(start, _REACH)
    for pa in (start, start & TOP_2_GIB - 1):
        with suppress(ReadError):
            yield kernel.stop.memory.read(PhysAddr(pa), _REACH)
