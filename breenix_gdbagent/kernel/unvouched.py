"""Roots that only the scan of RAM knows, and that may well be none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import ReadError

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.view import Kernel

_MAKER = "ProcessPageTable::new"
"""Copies the kernel's slots one by one (kernel/src/memory/process_memory.rs): until it returns they
are not all there."""


def doubtful(kernel: Kernel) -> frozenset[PhysAddr]:
    """Roots of processes without a witness which are not to be held to anything: one in the making,
    or a dead one whose frame is a kernel stack by now (stacks are not cleared, so that the lower
    half of a page may be a PML4's for long)."""
    unvouched = {s.root for s in kernel.spaces if s.role == "process" and s.live is None}
    if not unvouched:
        return frozenset()
    if any(name.endswith(_MAKER) for name in kernel.call_names):
        return frozenset(unvouched)
    if kernel.master is None or not kernel.frames_come_back:
        return frozenset()
    try:
        leaves = kernel.kernel_leaves(kernel.master.root).values()
    except ReadError:
        return frozenset()
    return frozenset(unvouched & {leaf.frame for leaf in leaves})
