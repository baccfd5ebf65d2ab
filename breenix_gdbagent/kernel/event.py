"""The exception that a stop is about: the frame the CPU pushed, read where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.machine import Machine
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.x86.exceptions import (
    FRAME,
    ExceptionFrame,
    ReadVirtual,
    parse_frame,
    read_frame,
)
from breenix_gdbagent.x86.vectors import ORDINARY_VECTORS

PAGE_FAULT = 14

_OF_THE_FRAME = frozenset({"rip", "cs", "eflags", "rsp", "ss"})


@dataclass(frozen=True, slots=True)
class Event:
    """One delivered exception: vector, error code (None where none was pushed), and the interrupted
    context as it stands in the frame at `frame_at`.

    `cr2` is what CR2 says where that belongs to this exception, None where it is stale.
    `registers` are those of the interrupted program that are still known: all others than the
    frame's at a handler's first instruction, none later. `inside`: the handler runs already.
    """

    vector: int
    error_code: int | None
    rip: VirtAddr
    cs: int
    rflags: int
    rsp: VirtAddr
    ss: int
    frame_at: VirtAddr
    cr2: VirtAddr | None = None
    registers: Mapping[str, int] = field(default_factory=dict)
    inside: bool = False

    @property
    def cpl(self) -> int:
        """Privilege level of what was interrupted."""
        return self.cs & 3

    @property
    def entry_rsp(self) -> VirtAddr:
        """RSP at the handler's first instruction."""
        return VirtAddr(self.frame_at - (0 if self.error_code is None else 8))

    @property
    def frame_end(self) -> VirtAddr:
        """The first address above the frame: what RSP was aligned to before the pushes."""
        return VirtAddr(self.frame_at + FRAME.size)


def event_at_handler(cpu: Cpu, vector: int, read: ReadVirtual) -> Event:
    """The exception at whose handler's first instruction `cpu` stands. Raises `ReadError`."""
    if cpu.stack is None:
        raise ReadError(f"RSP of CPU {cpu.index} is not known")
    cr2 = cpu.get("cr2")
    return replace(
        event_of_frame(vector, frame_entered(read, cpu.rsp, vector), cpu.rsp),
        cr2=VirtAddr(cr2) if vector == PAGE_FAULT and cr2 is not None else None,
        registers={n: v for n, v in cpu.registers.items() if n not in _OF_THE_FRAME},
    )


def frame_entered(read: ReadVirtual, rsp: int, vector: int) -> ExceptionFrame:
    """The frame at `rsp`, RSP at the first instruction of the handler of `vector`. An interrupt
    that comes at the vector of an exception pushes no error code: of the two readings it is the one
    that a CPU can have pushed. Raises `ReadError`."""
    frame = read_frame(read, rsp, vector)
    if frame.error_code is None or (frame.clean and frame.plausible()):
        return frame
    other = parse_frame(read(rsp, FRAME.size))
    aligned = (rsp + FRAME.size) % 16 == 0
    return other if aligned and other.clean and other.plausible() else frame


def event_of_frame(vector: int, frame: ExceptionFrame, entry_rsp: int) -> Event:
    """The event whose frame was pushed down to `entry_rsp`; no register of it is known."""
    at = VirtAddr(entry_rsp + frame.size - FRAME.size)
    return Event(
        vector, frame.error_code, frame.rip, frame.cs, frame.rflags, frame.rsp, frame.ss, at
    )


def infer_reason(machine: Machine) -> StopReason | None:
    """The fault that a bare core was taken at, when a CPU stands at the first instruction of an
    exception's handler and [RSP] holds a frame that its delivery would have left there.

    None for everything else, the handlers of interrupts and of `ORDINARY_VECTORS` included.
    """
    for cpu in machine.cpus:
        vector = vector_entered(machine, cpu)
        if vector is not None:
            return StopReason("fault", cpu.index, vector)
    return None


def faulting(machine: Machine, reason: StopReason) -> tuple[tuple[Cpu, int], ...]:
    """Every CPU that stands at an exception's handler at a stop of kind ``fault``, with the vector:
    the one that the stop is about first, others that happen to stand at one too."""
    about = machine.cpu
    if reason.kind != "fault" or reason.vector is None:
        return ()
    found = [(about, reason.vector)]
    for cpu in machine.cpus:
        vector = vector_entered(machine, cpu) if cpu is not about else None
        if vector is not None:
            found.append((cpu, vector))
    return tuple(found)


def vector_entered(machine: Machine, cpu: Cpu) -> int | None:
    """The exception at whose handler's first instruction `cpu` stands, None when at none, or when
    several share the handler and their frames do not tell which."""
    if cpu.cpl != 0 or cpu.paging is None or cpu.root is None or cpu.at is None:
        return None
    vectors = [v for v in _entered(machine, cpu.rip) if _left_by(machine, cpu, v)]
    return vectors[0] if len(vectors) == 1 else None


def _entered(machine: Machine, rip: int) -> Iterator[int]:
    """The exceptions whose gate leads to `rip`."""
    try:
        gates = machine.gates
    except ReadError:
        return
    for vector, gate in gates.items():
        if vector < 32 and vector not in ORDINARY_VECTORS and gate.offset == rip:
            yield vector


def _left_by(machine: Machine, cpu: Cpu, vector: int) -> bool:
    assert cpu.root is not None
    try:
        frame = frame_entered(machine.memory_of(cpu.root).read, cpu.rsp, vector)
    except ReadError:
        return False
    event = event_of_frame(vector, frame, cpu.rsp)
    tops = stack_tops(machine, cpu, event) if frame.plausible(machine.levels) else ()
    return event.frame_end in tops


def outer_event(
    machine: Machine, cpu: Cpu, rip: int, rsp: int, registers: Mapping[str, int]
) -> Event | None:
    """The exception whose handler at `rip` was about to run with `rsp` when another came before
    its first instruction; None when `rip` is no handler or [RSP] holds no frame of its delivery.

    `registers` are those of that moment, the program's own but for those in the frame.
    """
    entered = Cpu(cpu.index, {**registers, "rip": rip, "rsp": rsp, "cr3": cpu.registers["cr3"]})
    vectors = [v for v in _entered(machine, rip) if _left_by(machine, entered, v)]
    if len(vectors) != 1 or cpu.root is None:
        return None
    return event_at_handler(entered, vectors[0], machine.memory_of(cpu.root).read)


def stack_tops(machine: Machine, cpu: Cpu, event: Event) -> frozenset[int]:
    """Where the frame of `event` may end: the top that its gate's IST names, RSP0 when it came
    from ring 3, else the interrupted RSP (aligned to 16: SDM vol. 3, 6.14.2 and 6.14.4).

    Without a TSS any top is possible, and the frame's own end is given back.
    """
    gate = machine.gates.get(event.vector)
    tss = machine.tss.get(cpu.index)
    ist = gate.ist if gate is not None else 0
    if not ist and event.cpl == 0:
        return frozenset({event.rsp & -16})
    if tss is None:
        return frozenset({event.frame_end})
    return frozenset({(tss.ist[ist - 1] if ist else tss.rsp0) & -16})
