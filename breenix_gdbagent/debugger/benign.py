"""Faults that a guarded run passes at once: copy-on-write and stack growth, which Breenix answers.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.faults import recognised
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.event import frame_entered
from breenix_gdbagent.kernel.layout import KERNEL_STACKS, Era
from breenix_gdbagent.kernel.percpu import read_percpu
from breenix_gdbagent.kernel.stacks import StackRegion, recognise_era
from breenix_gdbagent.live.fault import Fault
from breenix_gdbagent.x86.cpu import Cpu
from breenix_gdbagent.x86.paging import Tables

DOUBLE_FAULT = 8
STACK_REGION = 128 << 20


def of_ring3(fault: Fault) -> bool:
    """Whether the interrupted code ran in ring 3, from the CS that the CPU pushed."""
    vector, rsp = fault.reason.vector, fault.registers.get("rsp")
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

    era: Era | None = None

    def known(self, fault: Fault) -> bool:
        """Whether the fault is copy-on-write or stack growth."""
        if fault.reason.vector is None:
            return False
        tables = Tables(fault.vm.recent_memory())
        cpu = Cpu(fault.reason.cpu, fault.registers)
        grows = self._grows(tables, cpu)
        return recognised(cpu, fault.reason.vector, tables, grows=grows) is not None

    def _grows(self, tables: Tables, cpu: Cpu) -> bool:
        """Whether this kernel grows user stacks: asked of its stacks once they are mapped."""
        if self.era is None:
            percpu = read_percpu(tables, cpu)
            if percpu is not None:
                region = StackRegion(tables, KERNEL_STACKS, KERNEL_STACKS + STACK_REGION, 4)
                with suppress(ReadError):
                    self.era = recognise_era(region.leaves(percpu.kernel_cr3))
        return self.era is not None and self.era.name != "2025"
