"""An interrupt at a chosen instruction: what one boot in two hundred does by itself.

The CPU is given what it has after delivering the interrupt: the frame on the stack that the gate
and the privilege say, RIP at the handler, IF as the gate's type says (SDM vol. 3, 6.12 and 6.14).
"""

from __future__ import annotations

from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.points import Point
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.places import parse_vector
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.x86.descriptors import Gate

IF, TF, NT, RF, VM = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 17
INTERRUPT_GATE = 0xE
_MASK = (1 << 64) - 1


def parse_interrupt(text: str, kernel: Kernel) -> int:
    """``timer`` or the number of a vector. Raises `InputError` where it has no gate, and for an
    exception, which an instruction of the guest's has to cause."""
    pic = kernel.stop.pic
    timer = 32 if pic is None else pic.master.base
    vector = timer if text == "timer" else parse_vector(text)
    if vector < 32:
        raise InputError(f"vector {vector} is an exception", fix="an interrupt: timer, 32 to 255")
    return vector


class Injection:
    """One interrupt, delivered at the next hit of `point`; the guest stands at its handler then."""

    def __init__(self, vm: LiveVm, debugger: Debugger, point: Point, vector: int) -> None:
        self.vm = vm
        self.debugger = debugger
        self.point = point
        self.vector = vector

    def run(self) -> StopEvent:
        """A note of the event says where it was delivered, or why not. Raises `LinkError`."""
        event = self.debugger.go()
        if self.point not in event.points:
            return event
        kernel = Kernel(self.debugger.stop(event.reason))
        try:
            self._deliver(kernel)
        except ReadError as error:
            return StopEvent(event.reason, event.points, (f"not delivered: {error.what}",))
        where = kernel.describe(kernel.stop.cpu.rip)
        self.debugger.written.append(f"vector {self.vector} delivered at {where}")
        handler = kernel.gates[self.vector].offset
        note = f"vector {self.vector} was delivered: the guest stands at its handler, "
        return StopEvent(event.reason, event.points, (note + kernel.describe(handler),))

    def _deliver(self, kernel: Kernel) -> None:
        cpu = kernel.stop.cpu
        gate = kernel.gates.get(self.vector)
        flags = cpu.get("eflags") or 0
        if gate is None:
            raise ReadError(f"the IDT has no gate of vector {self.vector}")
        if not flags & IF:
            raise ReadError(
                f"interrupts are off at {kernel.describe(cpu.rip)}: none can come there"
            )
        old = (cpu.rip, cpu.get("cs") or 0, flags, cpu.stack or 0, cpu.get("ss") or 0)
        inner = (cpu.cpl or 0) > 0
        top = (self._stack(kernel, gate, inner) or old[3]) & ~0xF
        frame = b"".join(word.to_bytes(8, "little") for word in old)
        self.vm.write_register(cpu.index, "cs", gate.selector)
        if inner:
            self.vm.write_register(cpu.index, "ss", 0)
        self.vm.write_memory(cpu.index, top - len(frame), frame)
        after = flags & ~(TF | NT | RF | VM | (IF if gate.type == INTERRUPT_GATE else 0))
        for name, value in (("rsp", top - len(frame)), ("rip", gate.offset), ("eflags", after)):
            self.vm.write_register(cpu.index, name, value & _MASK)

    def _stack(self, kernel: Kernel, gate: Gate, inner: bool) -> int | None:
        """The top of the stack that the CPU switches to; None: it stays on its own."""
        if not gate.ist and not inner:
            return None
        tss = kernel.tss.get(kernel.stop.cpu.index)
        if tss is None:
            raise ReadError("TR names no TSS that can be read: the CPU's next stack is not known")
        return int(tss.ist[gate.ist - 1] if gate.ist else tss.rsp0)
