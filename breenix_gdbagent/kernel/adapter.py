"""`Adapter`: all that is known of one kernel. This base knows nothing, and is what another kernel
than those with an adapter has: ``none``.

What holds for any kernel (tables, descriptor tables, stacks by their mapping, what the CPU did) is
asked of the machine. What a kernel alone can tell (where it keeps its threads, what it mends and
goes on, which file to look at) is asked of its adapter, and of nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.percpu import PerCpu
    from breenix_gdbagent.stop import Stop
    from breenix_gdbagent.x86.cpu import Cpu
    from breenix_gdbagent.x86.machine import Machine


@dataclass(frozen=True, slots=True)
class Advice:
    """What is said of one finding code on this kernel: how it arose there, how to confirm and mend
    it, and the source files to see. What is None is as the code's declaration says it."""

    arises: str | None = None
    confirm: str | None = None
    mend: str | None = None
    see: tuple[str, ...] = ()


NOTHING = Advice()


class Adapter:
    """What is known of one kernel; every answer of this base is "nothing". One instance serves all
    stops: it keeps nothing of any of them."""

    name = "none"
    advice: Mapping[str, Advice] = MappingProxyType({})
    """Finding code -> what is said of it on this kernel."""

    def applies(self, stop: Stop, machine: Machine) -> bool:
        """Whether this is the kernel of `stop`, by its ELF's names or by what stands in memory.
        Never raises: what cannot be read is no sign."""
        return True

    def percpu(self, machine: Machine, cpu: Cpu) -> PerCpu | None:
        """The per-CPU block of `cpu`, None where there is none."""
        return None

    def advice_for(self, code: str) -> Advice:
        """What is said of a finding code."""
        return self.advice.get(code, NOTHING)
