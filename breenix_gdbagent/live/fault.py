"""A fault as the run loop's caller gets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.stop import StopReason

if TYPE_CHECKING:
    from breenix_gdbagent.live.vm import LiveVm


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception at the first instruction of its handler, as `on_fault` gets it.

    `registers` cost nothing; `vm.stop(reason)` makes the whole `Stop` of it.
    """

    vm: LiveVm
    reason: StopReason
    registers: Mapping[str, int]


OnFault = Callable[[Fault], bool]
"""Whether to pass the fault and go on."""
