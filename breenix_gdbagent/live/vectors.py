"""Catching faults where the handlers are a table of code at the address in a register.

Breakpoints stand where faults go by that table (`arch.vectors`). The table is known once the kernel
has loaded the register, and that moment is caught as the loading of an IDT is (`live.arming`): with
the kernel's ELF, by hardware breakpoints on each instruction that sets the register, at its linked
address and at the physical one where it may run first; one single step executes it. A guest that
runs already is asked for the register of each of its CPUs; without an ELF one that was started is
asked whenever serial text arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.vectors import VectorTable
from breenix_gdbagent.link.breakpoints import Break
from breenix_gdbagent.live.catching import FAULTS, POLL_SECONDS, Arms, Catching
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.elfcode import KernelCode
from breenix_gdbagent.stop import StopReason

MOST_SITES = 32


class VectorArming(Catching):
    """See `Catching`. `bases` is what each CPU's register was last seen to hold."""

    def __init__(self, vm: Arms, clock: RunClock, table: VectorTable) -> None:
        super().__init__(vm, clock)
        self.table = table
        self.bases: dict[int, int] = {}
        self.places: dict[int, tuple[int, ...]] = {}
        self._code: KernelCode | None = None
        self._sites: dict[int, tuple[int, int]] = {}
        self._proved: set[int] = set()
        self._panics: tuple[int, ...] = ()
        self._panic_at: set[int] = set()
        self._polled = -POLL_SECONDS
        self._asked = False

    def before_start(self, kernel: Path, *, identity: bool, panics: Sequence[int]) -> None:
        self._asked = True
        self._code = code = KernelCode.read(kernel)
        self._panics = tuple(panics)
        for segment in code.segments:
            for offset in self.table.sites(segment.data):
                link = segment.vaddr + offset
                for base in {0, segment.paddr - segment.vaddr} if identity else {0}:
                    self._sites[link + base] = (base, link)
        if not self._sites:
            self.notes.append(f"{code.name} has no instruction that sets {self.table.register}")
        if len(self._sites) > MOST_SITES:
            self.notes.append(f"{code.name} has {len(self._sites)} that set {self.table.register}")
            self._sites = dict(list(self._sites.items())[:MOST_SITES])
        self.polling = not self._sites
        self._want()

    def now(self, kernel: Path | None, bias: int | None, panics: Sequence[int]) -> None:
        self._asked = True
        self._code = None if kernel is None else KernelCode.read(kernel)
        self.bias = bias
        self._panics = tuple(panics)
        self.polling = True
        self._begin("the guest stood still with")

    def poll(self) -> None:
        now = self._clock.seconds()
        if self.polling and now - self._polled >= POLL_SECONDS:
            self._polled = now
            self._vm.pause_for(lambda: self._begin("after the serial text showed it running,"))

    def _begin(self, how: str) -> None:
        """Arm the table that the first CPU has now, if it has one."""
        base = self._vm.registers_of(0).get(self.table.register)
        if base:
            self._load(0, base, f"{how} its vectors at {hex64(base)}")

    # At a stop -----------------------------------------------------------------------------

    def on_trap(self, thread: str, cpu: int, pc: int) -> StopReason | None:
        if pc in self.places:
            vector = self.table.fault_at(self._vm.registers_of(cpu), self.places[pc])
            if vector is None or vector in self.passing:
                self._vm.step_over(thread)
                return None
            return StopReason("fault", cpu, vector=vector)
        if pc in self._panic_at:
            return StopReason("panic", cpu)
        if pc in self._sites:
            if self._is_own(pc):
                self._vm.step_over(thread)
            return None
        return StopReason("breakpoint", cpu, text=hex64(pc))

    def awaits(self, pc: int) -> bool:
        if pc in self.places:
            # A step has come here by a system call: it ends here, and the next one goes on.
            return False
        return pc in self._sites

    def stepped(self, cpu: int, pc: int) -> bool:
        if pc not in self._sites or not self._is_own(pc):
            return False
        base = self._vm.registers_of(cpu).get(self.table.register)
        if not base:
            return False
        self._load(cpu, base, f"the kernel loaded its vectors at {hex64(base)}")
        return True

    def _is_own(self, pc: int) -> bool:
        """Whether the ELF's code is at a site; else it is none. Proved once for a load bias."""
        base, link = self._sites[pc]
        assert self._code is not None
        if base in self._proved:
            return True
        if self._code.stands_at(base, link, self._vm.read_or_none):
            self._proved.add(base)
            return True
        self.notes.append(
            f"at {hex64(pc)} the guest has other code than {self._code.name}: "
            "it is not the kernel that runs, or not at this address"
        )
        del self._sites[pc]
        self._want()
        return False

    def at_stop(self, cpus: Sequence[Cpu]) -> None:
        for cpu in cpus if self._asked else ():
            base = cpu.get(self.table.register)
            if base and base != self.bases.get(cpu.index):
                self._load(cpu.index, base, f"a stop found its vectors at {hex64(base)}")

    def _load(self, cpu: int, base: int, how: str) -> None:
        self.bases[cpu] = base
        self.places = {}
        for one in dict.fromkeys(self.bases.values()):
            self.places.update(self.table.places(one, self._vm.read_or_none))
        if self.bias is None and self._code is not None:
            self.bias = self._code.fixed_bias
        if self.bias is not None or self._code is None:
            self._panic_at = {(self.bias or 0) + at for at in self._panics}
        if self.armed_at is None:
            self.armed_at = f"{how}, {self._clock.seconds():.3f} s into the run"
            self.polling = False
        self._want()

    def _want(self) -> None:
        """Hardware breakpoints, because the code may not be there yet."""
        places = (*self._sites, *self.places, *self._panic_at)
        self._vm.ledger.set_wanted(FAULTS, (Break("hardware", at) for at in places))
