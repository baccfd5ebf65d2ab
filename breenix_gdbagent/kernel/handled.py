"""Page faults that a kernel lives on, recognised from the frame and one walk: cheap enough for each
of thousands."""

from __future__ import annotations

from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.adapter import Adapter, Handled
from breenix_gdbagent.kernel.adapters import BREENIX
from breenix_gdbagent.kernel.event import PAGE_FAULT, event_at_handler
from breenix_gdbagent.x86.paging import VirtualMemory, walk


def recognised(
    cpu: Cpu, vector: int, tables: Tables, *, grows: bool, adapter: Adapter = BREENIX
) -> Handled | None:
    """What makes the fault at whose handler `cpu` stands none of the kernel's defects, None when
    that is not clear at once: the whole analysis has to say then.

    `grows`: whether this kernel grows user stacks (`Adapter.grows_stacks`).
    """
    mode, root, cr2 = cpu.paging, cpu.root, cpu.get("cr2")
    if vector != PAGE_FAULT or mode is None or root is None or cr2 is None:
        return None
    try:
        event = event_at_handler(cpu, vector, VirtualMemory(tables, root, mode.levels).read)
    except ReadError:
        return None
    way = walk(tables, root, cr2, mode.levels)
    return adapter.handled(tables, way, event.error_code or 0, grows=grows)
