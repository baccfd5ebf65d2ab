"""A fault or breakpoint hit, as the debugger gets it from a running guest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from breenix_gdbagent.live.guest import Guest
from breenix_gdbagent.stop import StopReason


class Fault(NamedTuple):
    """An exception at the first instruction of its handler, as `on_fault` gets it.

    `registers` cost nothing; `vm.stop(reason)` makes the whole `Stop` of it.
    """

    vm: Guest
    reason: StopReason
    registers: Mapping[str, int]


OnFault = Callable[[Fault], bool]
"""Whether to pass the fault and go on."""


class Hit(NamedTuple):
    """A break- or watchpoint that is not for catching faults, as `on_hit` gets it.

    `watch` is the kind (``write``, ``read``, ``access``) and the address of a watchpoint: then RIP
    is behind the instruction that did it.
    """

    vm: Guest
    reason: StopReason
    registers: Mapping[str, int]
    watch: tuple[str, int] | None


OnHit = Callable[[Hit], bool]
"""Whether to pass it and go on."""
