"""Faults that a guarded run passes at once: copy-on-write and stack growth, which the kernel
answers.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.machine import Machine
from breenix_gdbagent.checks.faults import recognised
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.adapter import Adapter
from breenix_gdbagent.kernel.adapters import GENERIC, adapter_of
from breenix_gdbagent.kernel.event import frame_entered
from breenix_gdbagent.kernel.stacks import Era, StackRegion, recognise_era
from breenix_gdbagent.live.fault import Fault
from breenix_gdbagent.stop import AdapterSource
from breenix_gdbagent.symbols import Image

DOUBLE_FAULT = 8


def of_ring3(fault: Fault) -> bool:
    """Whether the interrupted code ran in ring 3, from what the CPU saved of it."""
    ring = fault.vm.arch.interrupted_ring(fault.registers)
    if ring is not None:
        return ring == 3
    vector, rsp = fault.reason.vector, fault.registers.get(fault.vm.arch.names.sp)
    if vector is None or rsp is None or vector == DOUBLE_FAULT:
        return False

    def read(va: int, length: int) -> bytes:
        data = fault.vm.read_or_none(va, length)
        if data is None:
            raise ReadError(f"{hex64(va)} is not mapped")
        return data

    try:
        return frame_entered(read, rsp, vector).cpl == 3
    except ReadError:
        return False


@dataclass(slots=True)
class BenignFaults:
    """Page faults that the kernel lives on, recognised from the frame and one walk: no stop is
    made of them."""

    image: Image | None = None
    chosen: AdapterSource | None = None
    adapter: Adapter | None = None
    era: Era | None = None

    def known(self, fault: Fault) -> bool:
        """Whether the fault is copy-on-write or stack growth."""
        if fault.reason.vector is None:
            return False
        cpu = Cpu(fault.reason.cpu, fault.registers, arch_name=fault.vm.arch.name)
        machine = Machine(fault.vm.recent_memory(), (cpu,), cpu)
        adapter = self._adapter(machine)
        grows = adapter.grows_stacks(self._era(adapter, machine))
        tables, vector = machine.tables, fault.reason.vector
        return recognised(cpu, vector, tables, grows=grows, adapter=adapter) is not None

    def _adapter(self, machine: Machine) -> Adapter:
        """What is known of the kernel: asked again as long as nothing is."""
        if self.adapter is None:
            found = adapter_of(machine, self.image, self.chosen)
            if found is GENERIC:
                return found
            self.adapter = found
        return self.adapter

    def _era(self, adapter: Adapter, machine: Machine) -> Era | None:
        """Asked of the kernel's stacks once they are mapped."""
        if self.era is None:
            percpu = adapter.percpu(machine, machine.cpu)
            if percpu is not None:
                region = StackRegion(machine.tables, adapter.layout.kernel_stacks, 4)
                with suppress(ReadError):
                    self.era = recognise_era(region.leaves(percpu.kernel_cr3), adapter.eras)
        return self.era
