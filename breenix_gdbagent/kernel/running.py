"""What each CPU was running when the guest stopped, and whether a difference between
them is a defect.

While Breenix switches threads, the per-CPU block, the TSS and CR3 already belong to the next thread
and the stack still to the last, until iretq (kernel/src/interrupts/context_switch.rs): in that
window nothing of it disagrees by mistake. It is known to be closed in ring 3, with interrupts on,
or when the stack shows that nothing of a switch is on it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.errors import ReadError

if TYPE_CHECKING:
    from breenix_gdbagent.arch.cpu import Cpu
    from breenix_gdbagent.kernel.stacks import KernelStack
    from breenix_gdbagent.kernel.view import Kernel
    from breenix_gdbagent.symbols.backtrace import Backtrace

RFLAGS_IF = 1 << 9
_ALWAYS_ONE = 1 << 1
"""Bit 1 of RFLAGS (SDM volume 1, 3.4.3)."""
_STUB = re.compile(r"(?i)entry|interrupt|iretq|sysret|return_to")
"""Assembly on the way in and out (syscall_entry, timer_interrupt_entry, interrupt_iretq), where the
stack may be another thread's for a moment."""
_WORD = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Running:
    """The program that a CPU was in: what an exception interrupted where the stop is at its
    handler, else the CPU itself."""

    cpu: Cpu
    rip: VirtAddr
    rsp: VirtAddr
    cs: int
    rflags: int
    interrupted: bool

    @property
    def cpl(self) -> int:
        return self.cs & 3

    @property
    def interrupts_on(self) -> bool:
        return bool(self.rflags & RFLAGS_IF)


def running(kernel: Kernel, cpu: Cpu) -> Running | None:
    """None where the registers are not known, or the exception's frame cannot be read."""
    if cpu is kernel.stop.cpu:
        try:
            event = kernel.event
        except ReadError:
            return None
        if event is not None:
            return Running(cpu, event.rip, event.rsp, event.cs, event.rflags, True)
    return _at_gate(kernel, cpu) or by_registers(cpu)


def _at_gate(kernel: Kernel, cpu: Cpu) -> Running | None:
    """The program of ring 3 that a CPU has just left, at the first instruction of a gate's
    handler: an interrupt or a system call, at which nothing of the kernel has run yet."""
    rip = cpu.at
    if cpu.cpl != 0 or cpu.root is None or rip is None:
        return None
    from breenix_gdbagent.kernel.event import event_at_handler

    try:
        vectors = [vector for vector, gate in kernel.gates.items() if int(gate.offset) == rip]
        if len(vectors) != 1:
            return None
        event = event_at_handler(cpu, vectors[0], kernel.memory_of(cpu.root).read)
    except ReadError:
        return None
    user = event.cpl == 3 and event.ss & 3 == 3 and event.rflags & _ALWAYS_ONE
    return Running(cpu, event.rip, event.rsp, event.cs, event.rflags, True) if user else None


def by_registers(cpu: Cpu) -> Running | None:
    """The CPU itself, in a handler or not: its CR3 is that of what it interrupted."""
    values = [cpu.get(name) for name in ("rip", "rsp", "cs", "eflags")]
    rip, rsp, cs, flags = values
    if rip is None or rsp is None or cs is None or flags is None:
        return None
    return Running(cpu, VirtAddr(rip), VirtAddr(rsp), cs & 0xFFFF, flags, False)


def settled(kernel: Kernel, cpu: Cpu) -> bool:
    """Whether the CPU is surely not inside the function that switches threads."""
    here = running(kernel, cpu)
    if here is None:
        return False
    if here.cpl == 3 or here.interrupts_on:
        return True
    stack = kernel.stack_at(here.rsp)
    return stack is not None and _not_switching(kernel, here, stack)


def on_own_stack(kernel: Kernel, here: Running) -> bool:
    """Whether RSP is on the stack that the per-CPU block has for the running thread: it came into
    the kernel by itself, and no switch has been made since."""
    block, stack = kernel.percpu_of(here.cpu), kernel.stack_at(here.rsp)
    return block is not None and stack is not None and stack.top == block.kernel_stack_top


def not_returning(kernel: Kernel, here: Running, stack: KernelStack) -> bool:
    """Whether the CPU is surely not on its way out through a stack that it was switched away from:
    interrupts are on, or nothing on the stack above RSP points into an entry that would return."""
    if here.interrupts_on:
        return True
    image = kernel.stop.image
    hit = None if image is None else image.symbol_at(here.rip)
    if image is None or hit is None or _on_way_out(kernel, hit.name):
        return False
    words = _words(kernel, here, stack)
    if words is None:
        return False
    hits = (image.symbol_at(word) for word in words if image.holds(word))
    return not any(found is not None and _on_way_out(kernel, found.name) for found in hits)


def backtrace(kernel: Kernel, here: Running) -> Backtrace | None:
    """The calls that led there, None without an ELF or paging."""
    image, root = kernel.stop.image, here.cpu.root
    if image is None or root is None or here.cpl == 3:
        return None
    registers = dict(here.cpu.registers)
    if here.cpu.arch.names.link:
        from breenix_gdbagent.kernel.trace import unwinder

        return unwinder(kernel, root).backtrace(registers)
    from breenix_gdbagent.symbols.unwind import Unwinder

    try:
        gates = {vector: int(gate.offset) for vector, gate in kernel.gates.items()}
    except ReadError:
        gates = {}
    if here.interrupted:
        event = kernel.event
        registers = dict(event.registers) if event is not None else {}
    registers |= {"rip": here.rip, "rsp": here.rsp, "cs": here.cs}
    return Unwinder(image, kernel.memory_of(root).read, gates or None).backtrace(registers)


def call_names(kernel: Kernel) -> tuple[str, ...]:
    """Functions that the stop's CPU is in, the innermost first, as far as they are known."""
    here = running(kernel, kernel.stop.cpu)
    trace = None if here is None else backtrace(kernel, here)
    return () if trace is None else tuple(f.name for f in trace.frames if not f.ring)


def _not_switching(kernel: Kernel, here: Running, stack: KernelStack) -> bool:
    """Whether no frame of the switching function can be on the stack: none in a backtrace that
    comes to ring 3, or no word at all between RSP and the top that points into it."""
    image, switch = kernel.stop.image, kernel.adapter.switch_function
    hit = None if image is None else image.symbol_at(here.rip)
    if image is None or switch is None or hit is None or _on_way_out(kernel, hit.name):
        return False
    extents = [
        (symbol.address, symbol.address + symbol.size)
        for symbol in image.image.find(switch)
        if _last(symbol.name) == switch and symbol.size
    ]
    if not extents:
        return False
    trace = backtrace(kernel, here)
    if trace is not None and trace.frames and trace.frames[-1].ring == 3:
        return all(_last(frame.name) != switch for frame in trace.frames)
    words = _words(kernel, here, stack)
    if words is None:
        return False
    links = [image.link(word) for word in words]
    return not any(low <= link < high for link in links for low, high in extents)


def _words(kernel: Kernel, here: Running, stack: KernelStack) -> tuple[int, ...] | None:
    """What lies on the stack from RSP to its top; None where it cannot be read."""
    try:
        raw = kernel.memory_of(here.cpu.root or 0).read(here.rsp, stack.top - here.rsp & ~7)
    except ReadError:
        return None
    return tuple(word for (word,) in _WORD.iter_unpack(raw))


def _on_way_out(kernel: Kernel, name: str) -> bool:
    return _last(name) == kernel.adapter.switch_function or _STUB.search(_last(name)) is not None


def _last(name: str) -> str:
    return name.partition("+")[0].rsplit("::", 1)[-1]
