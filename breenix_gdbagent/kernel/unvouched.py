"""Which roots an audit is about: those that only the scan of RAM knows may well be none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.kernel.spaces import Space

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.view import Kernel

_MAKER = "ProcessPageTable::new"
"""Copies the kernel's slots one by one (kernel/src/memory/process_memory.rs): until it returns they
are not all there."""


def in_the_making(kernel: Kernel) -> frozenset[PhysAddr]:
    """Roots of processes without a witness, while the kernel makes one: it is among them."""
    unvouched = [s.root for s in kernel.spaces if s.role == "process" and s.live is None]
    if not unvouched or not any(name.endswith(_MAKER) for name in kernel.call_names):
        return frozenset()
    return frozenset(unvouched)


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
