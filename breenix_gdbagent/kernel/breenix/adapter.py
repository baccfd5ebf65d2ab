"""Breenix, in the shapes that it has had: the first adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from breenix_gdbagent.kernel.adapter import Adapter, Advice, Handled, ReadVirtual
from breenix_gdbagent.kernel.breenix.layout import BOOT_SHARED_SLOT, COW_FLAG, ERAS, LAYOUT
from breenix_gdbagent.kernel.breenix.percpu import read_percpu
from breenix_gdbagent.kernel.percpu import PerCpu
from breenix_gdbagent.kernel.serial_log import LogFacts, read_log
from breenix_gdbagent.symbols.bias import HANDLERS

if TYPE_CHECKING:
    from breenix_gdbagent.arch.cpu import Cpu
    from breenix_gdbagent.arch.machine import Machine
    from breenix_gdbagent.arch.tables import Tables
    from breenix_gdbagent.arch.walks import Walk
    from breenix_gdbagent.kernel.allocators import FrameAllocator, Heap
    from breenix_gdbagent.kernel.processes import ProcessTable
    from breenix_gdbagent.kernel.scheduler import Scheduler
    from breenix_gdbagent.kernel.stacks import Era
    from breenix_gdbagent.stop import SerialText
    from breenix_gdbagent.symbols import Image, LoadedImage
    from breenix_gdbagent.symbols.values import Values

_SIGNS = ("kernel::process::PROCESS_MANAGER", "kernel::task::scheduler::SCHEDULER")
"""Statics that every Breenix has had since it runs processes, and no other kernel by that path."""
_KNOWN: WeakKeyDictionary[Image, bool] = WeakKeyDictionary()
"""ELFs that were asked: one serves every stop of a run."""

# kernel/src/interrupts.rs, init_idt: what it installs in both eras, whatever else it has.
_ALWAYS = (0, 1, 3, 6, 8, 12, 13, 14)
_WITH_PROCESSES = (32, 0x80)


class Breenix(Adapter):
    """See `Adapter`."""

    name = "breenix"
    has_percpu = True
    handlers = HANDLERS
    layout = LAYOUT
    eras = ERAS
    boot_slots = (BOOT_SHARED_SLOT,)
    switch_function = "check_need_resched_and_switch"  # exported by every version

    @cached_property
    def advice(self) -> Mapping[str, Advice]:  # type: ignore[override]
        from breenix_gdbagent.kernel.breenix.advice import ADVICE

        return ADVICE

    def applies(self, machine: Machine | None, image: Image | None) -> bool:
        cpus = () if machine is None else machine.cpus
        if machine is not None and any(self.percpu(machine, cpu) is not None for cpu in cpus):
            return True
        return image is not None and _is_breenix(image)

    def percpu(self, machine: Machine, cpu: Cpu) -> PerCpu | None:
        return read_percpu(machine.tables, cpu)

    def log(self, serial: SerialText) -> LogFacts:
        return read_log(serial)

    def processes(self, values: Values) -> ProcessTable:
        from breenix_gdbagent.kernel.processes import read_processes

        return read_processes(values)

    def has_processes(self, values: Values) -> bool:
        from breenix_gdbagent.kernel.processes import has_manager

        return has_manager(values)

    def scheduler(self, values: Values) -> Scheduler:
        from breenix_gdbagent.kernel.scheduler import read_scheduler

        return read_scheduler(values)

    def frames(self, values: Values) -> FrameAllocator:
        from breenix_gdbagent.kernel.allocators import read_frame_allocator

        return read_frame_allocator(values)

    def heap(self, values: Values) -> Heap:
        from breenix_gdbagent.kernel.allocators import read_heap

        return read_heap(values)

    def stack_slots(self, values: Values) -> frozenset[int]:
        from breenix_gdbagent.kernel.allocators import read_stack_slots

        return read_stack_slots(values)[0]

    def gates(self, *, processes: bool) -> Sequence[int]:
        return _ALWAYS + (_WITH_PROCESSES if processes else ())

    def grows_stacks(self, era: Era | None) -> bool:
        return era is not None and era.name != "2025"

    def handled(self, tables: Tables, way: Walk, error_code: int, *, grows: bool) -> Handled | None:
        from breenix_gdbagent.kernel.breenix.handled import handled

        return handled(tables, way, error_code, grows=grows)

    def shared_on_purpose(self, leaf: int) -> bool:
        return bool(leaf & COW_FLAG)

    def takes_frames_back(self, era: Era | None) -> bool:
        return era is None or era.name != "2025"  # there deallocate_frame does nothing

    def frames_returned(self, image: LoadedImage, read: ReadVirtual) -> bool | None:
        from breenix_gdbagent.kernel.untyped import frames_returned

        return frames_returned(image, read)


def _is_breenix(image: Image) -> bool:
    if image not in _KNOWN:
        _KNOWN[image] = any(image.addresses_of(sign) for sign in _SIGNS)
    return _KNOWN[image]
