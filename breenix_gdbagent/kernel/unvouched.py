"""Which roots an audit is about: those that only the scan of RAM knows may well be none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.x86.paging import ADDRESS, P

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.view import Kernel


def in_the_making(kernel: Kernel) -> frozenset[PhysAddr]:
    """Roots of processes without a witness that have nothing of their own yet.

    `ProcessPageTable::new` clears the frame from slot 0 on, copies the kernel's slots one by one,
    and only then gives slot 0 an empty table (kernel/src/memory/process_memory.rs, both eras):
    until something is mapped there, a slot that is missing may be still to come.
    """
    return frozenset(
        s.root
        for s in kernel.spaces
        if s.role == "process" and s.live is None and _nothing_of_its_own(kernel, s.root)
    )


def _nothing_of_its_own(kernel: Kernel, root: PhysAddr) -> bool:
    try:
        raw = kernel.tables.table(root)[0]
        return not raw & P or not any(kernel.tables.table(PhysAddr(raw & ADDRESS)))
    except ReadError:
        return False


def considered(kernel: Kernel) -> tuple[Space, ...]:
    """Master and process roots not known to be dead nor in the making; boot and unknown only under
    a CR3."""
    in_use = {c.root for c in kernel.stop.cpus if c.paging is not None}
    kernels = [s for s in kernel.spaces if s.role in ("master", "process")]
    meant = {s.root for s in kernels if s.live is not False} - kernel.in_the_making
    return tuple(s for s in kernel.spaces if s.root in meant or s.root in in_use)


def still_roots(kernel: Kernel) -> tuple[Space, ...]:
    """`considered` without dead roots whose frame those that are alive have for something else."""
    if all(s.role != "process" or kernel.believed(s) for s in kernel.considered):
        return kernel.considered
    reused = kernel.ledger.reused
    return tuple(s for s in kernel.considered if s.root not in reused)
