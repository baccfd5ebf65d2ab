"""Where the guest is at a moment of a recording, as an answer about it says."""

from __future__ import annotations

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.views.call_trace import trace_of_cpu
from breenix_gdbagent.views.moments import Place
from breenix_gdbagent.x86.control import LONGEST_INSTRUCTION

WORD = 8


def place_of(kernel: Kernel, icount: int) -> Place:
    """The place at which the stop of `kernel` is."""
    stop = kernel.stop
    cpu = stop.cpu
    rip = cpu.at
    space = kernel.space_of(cpu.root) if cpu.paging is not None and cpu.root is not None else None
    try:
        thread = kernel.thread_name(cpu)
    except ReadError:
        thread = None
    return Place(
        icount=icount,
        seconds=round(stop.seconds, 6),
        rip=rip,
        symbol=None if rip is None else kernel.symbol(rip),
        trace=trace_of_cpu(kernel, cpu),
        process=None if space is None or space.role != "process" else space.name,
        thread=thread,
        text=_text(kernel),
    )


def _code(kernel: Kernel) -> bytes:
    cpu = kernel.stop.cpu
    rip, root = cpu.at, cpu.root
    if rip is None or root is None or cpu.paging is None:
        return b""
    memory = kernel.memory_of(root)
    for size in (LONGEST_INSTRUCTION, 0x1000 - (rip & 0xFFF)):
        try:
            return memory.read(rip, min(size, LONGEST_INSTRUCTION))
        except ReadError:
            continue
    return b""


def _text(kernel: Kernel) -> str:
    """The instruction in Intel's syntax, empty where it cannot be read."""
    from breenix_gdbagent.cpumodel.decoding import decode

    code = _code(kernel)
    found = decode(code, kernel.stop.cpu.rip, kernel.stop.cpu.registers) if code else None
    return "" if found is None else found.text


def writes_of(kernel: Kernel) -> tuple[tuple[int, PhysAddr], ...]:
    """(virtual address, physical word) of each place that the instruction at RIP writes."""
    from breenix_gdbagent.cpumodel.decoding import decode

    cpu, code = kernel.stop.cpu, _code(kernel)
    found = decode(code, cpu.rip, cpu.registers) if code else None
    out = []
    for access in () if found is None else found.accesses:
        if access.kind in ("write", "update") and access.address is not None and cpu.root:
            pa = kernel.walk(cpu.root, access.address).pa
            if pa is not None:
                out.append((access.address, PhysAddr(pa // WORD * WORD)))
    return tuple(out)
