"""Which of the roots in memory is whose: master, process, bootloader's or unknown, and who says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.breenix.layout import (
    BOOT_SHARED_SLOT,
    IST_STACKS_SLOT,
    KERNEL_STACKS_SLOT,
)
from breenix_gdbagent.kernel.percpu import PerCpu
from breenix_gdbagent.kernel.serial_log import LogFacts
from breenix_gdbagent.x86.control import CR3_ADDRESS
from breenix_gdbagent.x86.paging import frame_of, present, tables_in_common

Role = Literal["master", "process", "boot", "unknown"]
KERNEL_HALF = 256


LISTED = "process table"
RECLAIMING = "kept until no CPU can stand on it"


@dataclass(frozen=True, slots=True)
class NamedRoot:
    """A root that the kernel's own books name. `source` is ``process table``, or says that it is
    one of a dead process which is kept on purpose; `name` None where the row is gone."""

    root: PhysAddr
    pid: int
    name: str | None
    source: str = LISTED


@dataclass(frozen=True, slots=True)
class Space:
    """One address space. `live` is True only with a witness besides the RAM scan (a CR3, a
    per-CPU field, the process table), False when the process table was read and does not have it,
    else None. `source` says how it was found. `retiring`: its own process keeps it only until its
    frames are given back, so that it may still map frames which are free or others' by now."""

    root: PhysAddr
    role: Role
    live: bool | None
    pid: int | None
    name: str | None
    source: str
    retiring: bool = False

    @property
    def label(self) -> str:
        """How reports call it: process name and pid where known, else role, and the root where
        there may be many of that."""
        if self.name is not None and self.pid is not None:
            return f"{self.name} (pid {self.pid})"
        if self.role == "boot":
            return "the bootloader's tables"
        word = {"process": "process ", "unknown": "root "}.get(self.role)
        return self.role if word is None else f"{word}{self.root:#x}"

    @property
    def subject(self) -> str:
        """Its stable name, without an address."""
        return self.name or self.role


def find_spaces(
    tables: Tables,
    cpus: Sequence[Cpu],
    percpus: Sequence[PerCpu],
    scanned: Mapping[PhysAddr, str],
    log: LogFacts,
    listed: Sequence[NamedRoot] | None,
) -> tuple[Space, ...]:
    """Put the witnesses together. `scanned` is root -> how the RAM scan knew it; `listed` the
    kernel's process table, None when it could not be read."""
    masters = {
        PhysAddr(p.kernel_cr3 & CR3_ADDRESS) for p in percpus if not _before_master(tables, p)
    }
    early = {PhysAddr(p.kernel_cr3 & CR3_ADDRESS) for p in percpus} - masters
    sources = _witnesses(cpus, percpus)
    loaded = _loaded_roots(cpus, percpus)
    stale = {PhysAddr(b.saved_process_cr3 & CR3_ADDRESS) for b in percpus} - loaded
    owned = {n.root for n in listed or () if n.source == LISTED}
    named = {n.root: n for n in listed or ()}
    for process in listed or ():
        _seen(sources, process.root, process.source)
    witnessed = set(sources)
    for root, how in scanned.items():
        _seen(sources, root, how)
    spaces = []
    reference = next(iter(masters), None)
    for root in sorted(sources):
        role: Role = "boot" if root in early else _role(tables, root, masters, reference)
        if percpus and not masters and root not in witnessed:
            continue  # the master in the making, or what the bootloader left
        if masters and role == "unknown" and root not in witnessed:
            continue  # one slot of the scan alone: not a root of this kernel
        live: bool | None = True if root in witnessed else None
        if listed is not None and role == "process" and root not in named:
            # Nobody's, if a CPU stands on it; else a dead process's, which the scan still finds or
            # gs:80 still has from the last entry of ring 3.
            live, role = (False, role) if live is None or root in stale else (live, "unknown")
        pid, name = _identity(root, named, log)
        if role != "process":
            pid = name = None
        retiring = root in named and root not in owned and root not in loaded
        source = ", ".join(sources[root])
        spaces.append(Space(root, role, live, pid, name, source, retiring))
    return tuple(spaces)


def listed_spaces(
    cpus: Sequence[Cpu], listed: Sequence[NamedRoot] | None
) -> tuple[Space, ...]:
    """The roots that a CPU has loaded or the kernel's process table names, where spaces have the
    kernel's half in common without showing it in their own tables."""
    sources: dict[PhysAddr, list[str]] = {}
    for cpu in cpus:
        if cpu.paging is not None and cpu.root is not None:
            sources.setdefault(cpu.root, []).append(f"TTBR0 of CPU {cpu.index}")
    named = {one.root: one for one in listed or ()}
    for one in listed or ():
        sources.setdefault(one.root, []).append(one.source)
    found = []
    for root in sorted(sources):
        known = named.get(root)
        role: Role = "unknown" if known is None else "process"
        pid, name = (None, None) if known is None else (known.pid, known.name)
        found.append(Space(root, role, True, pid, name, ", ".join(sources[root])))
    return tuple(found)


_Sources = dict[PhysAddr, list[str]]


def _seen(sources: _Sources, root: int, source: str) -> None:
    if root:
        sources.setdefault(PhysAddr(root & CR3_ADDRESS), []).append(source)


def _witnesses(cpus: Sequence[Cpu], percpus: Sequence[PerCpu]) -> _Sources:
    """Roots that registers and per-CPU blocks name, and which of them does."""
    sources: _Sources = {}
    for cpu in cpus:
        if cpu.paging is not None and cpu.root is not None:
            _seen(sources, cpu.root, f"CR3 of CPU {cpu.index}")
    for block in percpus:
        _seen(sources, block.kernel_cr3, f"kernel_cr3 of CPU {block.cpu}")
        _seen(sources, block.saved_process_cr3, f"saved_process_cr3 of CPU {block.cpu}")
        _seen(sources, block.next_cr3, f"next_cr3 of CPU {block.cpu}")
    return sources


def _before_master(tables: Tables, block: PerCpu) -> bool:
    """Whether the kernel CR3 of a block is still the bootloader's: no thread runs yet, and kernel
    and IST stacks have no tables of their own (kernel_page_table.rs, before
    build_master_kernel_pml4)."""
    try:
        table = tables.table(PhysAddr(block.kernel_cr3 & CR3_ADDRESS))
    except ReadError:
        return False
    slots = (BOOT_SHARED_SLOT, KERNEL_STACKS_SLOT, IST_STACKS_SLOT)
    return not block.current_thread and len({frame_of(table[slot]) for slot in slots}) == 1


def _loaded_roots(cpus: Sequence[Cpu], percpus: Sequence[PerCpu]) -> set[PhysAddr]:
    """Roots that a CPU has in CR3 or is about to load."""
    loaded = {c.root for c in cpus if c.paging is not None and c.root is not None}
    return loaded | {PhysAddr(b.next_cr3 & CR3_ADDRESS) for b in percpus}


def _identity(
    root: PhysAddr, named: Mapping[PhysAddr, NamedRoot], log: LogFacts
) -> tuple[int | None, str | None]:
    if (by_table := named.get(root)) is not None:
        return by_table.pid, by_table.name
    if (by_log := log.by_root(root)) is not None:
        return by_log.pid, by_log.name
    return None, None


def _role(
    tables: Tables, root: PhysAddr, masters: set[PhysAddr], reference: PhysAddr | None
) -> Role:
    if root in masters:
        return "master"
    if reference is None:
        return "unknown"
    try:
        mine, master = tables.table(root), tables.table(reference)
    except ReadError:
        return "unknown"
    if mine[KERNEL_HALF:].tobytes() == master[KERNEL_HALF:].tobytes():
        return "process"
    if is_boot_root(mine, master):
        return "boot"
    there, same = tables_in_common(mine[KERNEL_HALF:], master[KERNEL_HALF:])
    return "process" if there and same * 4 >= there * 3 else "unknown"


def is_boot_root(table: memoryview, master: memoryview) -> bool:
    """The bootloader's PML4: its whole kernel half names the table that the master has at 256,
    slots 402 and 403 too, because the master got its own tables there only afterwards
    (kernel/src/memory/kernel_page_table.rs, build_master_kernel_pml4)."""
    common = frame_of(master[KERNEL_HALF])
    return all(
        present(table[slot])
        and frame_of(table[slot]) == common
        and frame_of(master[slot]) != common
        for slot in (KERNEL_STACKS_SLOT, IST_STACKS_SLOT)
    )
