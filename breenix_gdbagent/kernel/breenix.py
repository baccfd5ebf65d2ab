"""Breenix, in the shapes that it has had: the first adapter."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from breenix_gdbagent.kernel.adapter import Adapter, Advice
from breenix_gdbagent.kernel.percpu import PerCpu, read_percpu
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.cpu import Cpu
from breenix_gdbagent.x86.machine import Machine

if TYPE_CHECKING:
    from breenix_gdbagent.symbols import Image

_SIGNS = ("kernel::process::PROCESS_MANAGER", "kernel::task::scheduler::SCHEDULER")
"""Statics that every Breenix has had since it runs processes, and no other kernel by that path."""
_KNOWN: WeakKeyDictionary[Image, bool] = WeakKeyDictionary()
"""ELFs that were asked: one serves every stop of a run."""


class Breenix(Adapter):
    """See `Adapter`."""

    name = "breenix"

    def applies(self, stop: Stop, machine: Machine) -> bool:
        if any(self.percpu(machine, cpu) is not None for cpu in stop.cpus):
            return True
        image = stop.image.image if stop.image is not None else stop.unplaced
        return image is not None and _is_breenix(image)

    def percpu(self, machine: Machine, cpu: Cpu) -> PerCpu | None:
        return read_percpu(machine.tables, cpu)

    @cached_property
    def advice(self) -> Mapping[str, Advice]:  # type: ignore[override]
        from breenix_gdbagent.kernel.breenix_advice import ADVICE

        return ADVICE


def _is_breenix(image: Image) -> bool:
    if image not in _KNOWN:
        _KNOWN[image] = any(image.addresses_of(sign) for sign in _SIGNS)
    return _KNOWN[image]
