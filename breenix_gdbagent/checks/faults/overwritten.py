"""What the CPU ran on was no longer what the kernel had put there: its code, or its page tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.addresses import PAGE, Hex, PhysAddr, VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, Facts
from breenix_gdbagent.checks.finding import Finding, Where, declare
from breenix_gdbagent.checks.stack_use import OVERFLOW
from breenix_gdbagent.cpumodel.context import Context
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.code_bytes import overwritten_at
from breenix_gdbagent.kernel.table_bytes import calls_in_table
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import LEVEL

OVERWRITTEN = declare(
    "kernel-code.overwritten",
    "error",
    "the kernel's code has been written over",
    arises="A clear or a copy whose length has wrapped or whose pointer is wrong, a stack or a "
    "buffer that has grown into the kernel, DMA to a wrong address; or a loader that did not load "
    "all of it. The CPU runs on in what stands there now: the fault comes anywhere.",
    confirm="x/16xb at RIP in the guest against objdump of the kernel's ELF.",
    mend="Find who writes there: map the code read-only (W clear, CR0.WP set), and the write "
    "itself faults.",
    kind="state",
)
_OFFSET = re.compile(r"\+0x[0-9a-f]+$")
_NEAR = 64 << 10
_GUARD = (
    "Leave the page below that stack unmapped, so that an overflow faults there and does not write "
    "over what lies below; bt has what used the stack up."
)
_SURE, _ENOUGH = 3, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OverwrittenFacts(Facts):
    """Code at [start, end) is not the ELF's; at `rip`, where the CPU stood, memory has `memory` and
    the ELF `elf`, both as hexadecimal bytes. `fill` is what all of it has been set to."""

    start: VirtAddr
    end: VirtAddr
    rip: VirtAddr
    symbol: str | None
    memory: str
    elf: str
    fill: Annotated[Hex | None, IF_KNOWN]
    physical: Annotated[bool, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRunOver(Facts):
    """A page table on the way to `va` that a stack has grown over: `calls` of its entries are
    return addresses or lie in frames of exceptions, the first of them at `code` in `function`."""

    table: PhysAddr
    level: int
    va: VirtAddr
    calls: int
    code: VirtAddr
    function: str | None
    rsp: VirtAddr


def of_cpu(kernel: Kernel, cpu: Cpu) -> Iterator[Finding]:
    """The code that a CPU in ring 0 stands in."""
    rip, root = cpu.at, cpu.root
    if rip is not None and root is not None and cpu.paging is not None and cpu.cpl == 0:
        yield from _code(kernel, root, rip)


def of_context(kernel: Kernel, context: Context) -> Iterator[Finding]:
    """The code that an exception interrupted, and the tables that it ran on."""
    if context.cpl == 0:
        yield from _code(kernel, context.root, context.rip)
    yield from _tables(kernel, context)


def _code(kernel: Kernel, root: int, rip: int) -> Iterator[Finding]:
    try:
        found = overwritten_at(kernel, root, rip)
    except ReadError:
        return
    if found is None:
        return
    symbol = kernel.symbol(rip)
    facts = OverwrittenFacts(
        start=found.start,
        end=found.end,
        rip=found.at,
        symbol=symbol,
        memory=found.have.hex(" "),
        elf=found.want.hex(" "),
        fill=None if found.fill is None else Hex(found.fill),
        physical=found.physical,
    )
    subject = "kernel code" if symbol is None else _OFFSET.sub("", symbol)
    yield Finding(OVERWRITTEN, subject, facts, Where(root=root, va=found.start))


def _tables(kernel: Kernel, context: Context) -> Iterator[Finding]:
    """The tables on the way to what the CPU needed, by the code addresses in them."""
    cpu = context.cpu
    needed = [context.rip, context.rsp - 8 & -8, cpu.get("cr2") or 0]
    needed += [t.base for t in (cpu.idtr, cpu.gdtr, cpu.tr) if t is not None and t.base]
    seen = set[int]()
    for va in needed:
        for entry in kernel.walk(context.root, va).entries:
            table = PhysAddr(entry.entry_pa & -PAGE)
            if table in seen:
                continue
            seen.add(table)
            calls = calls_in_table(kernel, table)
            near = abs(table - context.rsp) < _NEAR or _behind(kernel, context, table)
            if len(calls) < (_ENOUGH if near else _SURE):
                continue
            name = kernel.symbol(calls[0])
            facts = TableRunOver(
                table=table,
                level=entry.level,
                va=VirtAddr(va),
                calls=len(calls),
                code=VirtAddr(calls[0]),
                function=None if name is None else _OFFSET.sub("", name),
                rsp=VirtAddr(context.rsp),
            )
            where = Where(root=context.root, va=va, pa=table, level=entry.level)
            subject = f"{LEVEL[entry.level].name} of the page tables"
            yield Finding(OVERFLOW, subject, facts, where, advice=_GUARD)


def _behind(kernel: Kernel, context: Context, table: int) -> bool:
    """Whether the stack of `context` lies by its physical address at that table."""
    pa = kernel.walk(context.root, context.rsp).pa
    return pa is not None and abs(pa - table) < _NEAR
