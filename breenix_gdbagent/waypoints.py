"""What a run does without ending: faults it passes at once, places it looks at on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from breenix_gdbagent.checks.examine import CHECKS
from breenix_gdbagent.checks.faults import recognised
from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.control import Checkpoint, Invariant
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.event import WITH_ERROR_CODE
from breenix_gdbagent.kernel.layout import KERNEL_STACKS, Era
from breenix_gdbagent.kernel.percpu import read_percpu
from breenix_gdbagent.kernel.stacks import StackRegion, recognise_era
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live import Fault
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.cpu import Cpu
from breenix_gdbagent.x86.paging import Tables

DOUBLE_FAULT = 8
STACK_REGION = 128 << 20


def of_ring3(fault: Fault) -> bool:
    """Whether the interrupted code ran in ring 3, from the CS that the CPU pushed."""
    vector, rsp = fault.reason.vector, fault.registers.get("rsp")
    if vector is None or rsp is None or vector == DOUBLE_FAULT:
        return False
    at = rsp + (8 if vector in WITH_ERROR_CODE else 0) + 8
    raw = fault.vm.read_or_none(at, 8)
    return raw is not None and raw[0] & 3 == 3


@dataclass(slots=True)
class BenignFaults:
    """Page faults that the kernel lives on, recognised from the frame and one walk: no stop is
    made of them."""

    era: Era | None = None

    def known(self, fault: Fault) -> bool:
        """Whether the fault is copy-on-write or stack growth."""
        if fault.reason.vector is None:
            return False
        tables = Tables(fault.vm.recent_memory())
        cpu = Cpu(fault.reason.cpu, fault.registers)
        return bool(recognised(cpu, fault.reason.vector, tables, grows=self._grows(tables, cpu)))

    def _grows(self, tables: Tables, cpu: Cpu) -> bool:
        """Whether this kernel grows user stacks: asked of its stacks once they are mapped."""
        if self.era is None:
            percpu = read_percpu(tables, cpu)
            if percpu is not None:
                region = StackRegion(tables, KERNEL_STACKS, KERNEL_STACKS + STACK_REGION, 4)
                with suppress(ReadError):
                    self.era = recognise_era(region.leaves(percpu.kernel_cr3))
        return self.era is not None and self.era.name != "2025"


@dataclass(slots=True)
class Waypoints:
    """Checkpoints and invariants by the addresses where their breakpoints stand."""

    places: dict[int, list[Checkpoint | Invariant]] = field(default_factory=dict)
    hits: int = 0

    def add(self, one: Checkpoint | Invariant, addresses: Iterable[int]) -> None:
        """Look at `one` where any of these addresses is reached."""
        for address in addresses:
            self.places.setdefault(address, []).append(one)

    def here(self, stop: Stop) -> bool:
        """Whether the stop is at one of them."""
        return stop.cpu.get("rip") in self.places

    def violated(self, kernel: Kernel, say: Callable[[str], None]) -> bool:
        """Print what the checkpoints say, run the invariants; whether one of them is broken. A
        check that cannot look is said, and is no violation."""
        self.hits += 1
        broken = False
        for one in self.places[kernel.stop.cpu.rip]:
            if isinstance(one, Checkpoint):
                line = one.line(kernel)
                if line is not None:
                    say(f"{kernel.stop.seconds:9.3f}  {line}")
                continue
            try:
                errors = [f for f in dict(CHECKS)[one.check](kernel) if f.weight == "error"]
            except (NotChecked, ReadError) as why:
                say(f"{kernel.stop.seconds:9.3f}  {one.check} is not checked: {why}")
                continue
            broken |= bool(errors)
        return broken
