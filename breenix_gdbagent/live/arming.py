"""When the agent begins to catch faults: at a point that the guest determines.

Breakpoints stand on the first instruction of each exception handler, so that a fault stops before
anything of it is lost. The handlers are known once the kernel has loaded its IDT, and that moment
is caught in one of three ways:

- a guest that runs already has its IDT loaded: at once;
- with the kernel's ELF, before the guest starts: hardware breakpoints on every place where the
  code may hold a ``lidt m``, at every address the kernel may be loaded. A hit proves the address
  by comparing code; one single step executes the ``lidt``;
- without: the monitor is asked for IDTR whenever serial text arrives, until it points above
  4 GiB, where no firmware's does. What happened before that is not caught, and we say so.

The IDT is read again at each later stop: gates that became present are armed too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import LinkError, StubError
from breenix_gdbagent.link.gdbstub import Break
from breenix_gdbagent.live.guest import FIRMWARE_TOP
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.x86.cpu import EFER_LMA, Cpu, DescriptorTable
from breenix_gdbagent.x86.descriptors import GATE_SIZE, INTERRUPT_GATE, TRAP_GATE, parse_gate

if TYPE_CHECKING:
    from breenix_gdbagent.live.elfcode import KernelCode
    from breenix_gdbagent.live.vm import LiveVm

EXCEPTIONS = 32
NOT_FAULTS = (1, 2, 3)
"""#DB, NMI and #BP: ordinary events."""

MOST_TELLING = (14, 13, 8, 6, 12, 0, 10, 11)
"""Armed first, for where breakpoints are few (4 under KVM)."""

COMPLETE = {8, 13, 14}
"""With these gates present an IDT is a kernel's last one."""

POLL_SECONDS = 0.25


def gates_of(table: bytes, passing: Collection[int] = ()) -> dict[int, tuple[int, ...]]:
    """Handler address -> vectors of present interrupt and trap gates, of vectors 0-31 that are
    faults and not `passing` (SDM volume 3, 6.14.1: type 14 or 15, P in bit 47)."""
    out: dict[int, tuple[int, ...]] = {}
    for vector in range(min(EXCEPTIONS, len(table) // GATE_SIZE)):
        if vector in NOT_FAULTS or vector in passing:
            continue
        gate = parse_gate(vector, table[vector * GATE_SIZE : (vector + 1) * GATE_SIZE])
        if gate.present and gate.type in (INTERRUPT_GATE, TRAP_GATE):
            out[gate.offset] = (*out.get(gate.offset, ()), vector)
    return out


class Arming:
    """The breakpoints that catch faults and panics of one guest."""

    def __init__(self, vm: LiveVm) -> None:
        self.armed_at: str | None = None
        self.bias: int | None = None
        self.gates: dict[int, tuple[int, ...]] = {}
        self.idtr: DescriptorTable | None = None
        self.notes: list[str] = []
        self.passing: frozenset[int] = frozenset()
        self.polling = False
        self._vm = vm
        self._code: KernelCode | None = None
        self._sites: dict[int, tuple[int, int]] = {}
        self._panics: tuple[int, ...] = ()
        self._panic_at: set[int] = set()
        self._table = b""
        self._polled = -POLL_SECONDS

    @property
    def addresses(self) -> set[int]:
        """Where a breakpoint of ours must stay."""
        return {*self.gates, *self._panic_at, *self._sites}

    # Three ways to begin -------------------------------------------------------------------

    def before_start(self, kernel: Path, *, identity: bool, panics: Sequence[int]) -> None:
        """Wait for the own ``lidt`` of the ELF `kernel`. `panics` are link-time addresses.
        Raises `InputError`."""
        from breenix_gdbagent.live.elfcode import KernelCode

        self._code = code = KernelCode.read(kernel)
        self._panics = tuple(panics)
        sites = code.lidt_sites()
        self._sites = {
            base + site: (base, site) for base in code.bases(identity=identity) for site in sites
        }
        if not sites:
            self.notes.append(f"{code.name} has no lidt instruction")
        self._insert(self._sites)
        self.polling = True

    def now(self, bias: int | None, panics: Sequence[int]) -> None:
        """Of a guest that stands still with its IDT loaded; else poll for it."""
        self.bias = bias
        self._panics = tuple(panics)
        self.polling = True
        self._begin("the guest stood still with")

    def poll(self) -> None:
        """Serial text has arrived from the running guest, which is not stopped for this."""
        now = self._vm.clock.seconds()
        if not self.polling or now - self._polled < (POLL_SECONDS if self._sites else 0):
            return
        self._polled = now
        if any(
            hidden.idtr is not None and hidden.idtr.base >= FIRMWARE_TOP
            for hidden in self._vm.hidden_running().values()
        ):
            self._vm.pause_for(lambda: self._begin("after the serial text showed it running,"))

    def _begin(self, how: str) -> None:
        """Arm the gates of the IDT that is loaded now, if it is a kernel's."""
        for hidden in self._vm.hidden().values():
            table = hidden.idtr
            if table is None or not table.limit or hidden.efer is None:
                continue
            if hidden.efer & EFER_LMA and table.base >= FIRMWARE_TOP:
                self._load(table, f"{how} its IDT at {hex64(table.base)} loaded")
                return

    # At a stop -----------------------------------------------------------------------------

    def on_trap(self, thread: str, cpu: int, rip: int) -> StopReason | None:
        """What a stop at `rip` means; None when it was the arming's own and is dealt with."""
        if rip in self.gates:
            vectors = self.gates[rip]
            text = "" if len(vectors) == 1 else f"handler of vectors {_listed(vectors)}"
            return StopReason(
                "fault", cpu, vector=vectors[0] if len(vectors) == 1 else None, text=text
            )
        if rip in self._panic_at:
            return StopReason("panic", cpu)
        if rip in self._sites:
            self._at_lidt(thread, cpu, rip)
            return None
        return StopReason("breakpoint", cpu, text=hex64(rip))

    def _at_lidt(self, thread: str, cpu: int, rip: int) -> None:
        base, site = self._sites[rip]
        if self.bias is None and not self._proved(base, site):
            assert self._code is not None
            self.notes.append(
                f"at {hex64(rip)} the guest has other code than {self._code.name}: "
                "it is not the kernel that runs, or not at this address"
            )
            self._drop({rip})
            return
        if self.bias is None:
            self.bias = base
            self._drop({at for at, (other, _) in self._sites.items() if other != base})
        self._vm.step_over(thread, self._vm.hardware(rip))
        hidden = self._vm.hidden().get(cpu)
        table = hidden.idtr if hidden is not None else None
        if table is not None and table.limit:
            self._load(table, f"the kernel loaded its IDT at {hex64(table.base)}")

    def _proved(self, base: int, site: int) -> bool:
        """Whether the guest has the ELF's code at `base`."""
        assert self._code is not None
        try:
            return all(
                self._vm.read(base + at, len(data)) == data for at, data in self._code.samples(site)
            )
        except LinkError:
            return False

    def table_request(self) -> tuple[int, int] | None:
        """(address, length) of the part of the IDT to read again at a stop; None: none yet."""
        if self.idtr is None:
            return None
        return self.idtr.base, min((self.idtr.limit or 0) + 1, EXCEPTIONS * GATE_SIZE)

    def refresh(self, table: bytes | None) -> None:
        """The IDT as it reads now (None: not readable under this CR3): arm what is new."""
        if table is None or table == self._table:
            return
        self._table = table
        fresh = gates_of(table, self.passing)
        self._drop(set(self.gates) - set(fresh))
        self.gates = fresh
        self._insert(_by_weight(fresh))

    def at_stop(self, cpus: Sequence[Cpu]) -> None:
        """IDTR as a full stop found it: armed now if it was not yet; and the kernel may have
        loaded another IDT since."""
        for cpu in cpus:
            table, efer = cpu.idtr, cpu.get("efer")
            if table is None or not table.limit or efer is None or not efer & EFER_LMA:
                continue
            if table.base < FIRMWARE_TOP or table == self.idtr:
                continue
            if self.idtr is not None or self.polling:
                self._load(table, f"a stop found its IDT at {hex64(table.base)} loaded")
                return

    def _load(self, table: DescriptorTable, how: str) -> None:
        self.idtr = table
        self.refresh(self._vm.read_or_none(table.base, (self.table_request() or (0, 0))[1]))
        if self.bias is not None or self._code is None:
            self._panic_at = {(self.bias or 0) + at for at in self._panics}
            self._insert(self._panic_at)
        if {v for vectors in self.gates.values() for v in vectors} >= COMPLETE:
            # Each breakpoint costs a TCG guest some 2 % (QEMU goes through the list at every
            # look-up of translated code): an IDT that is complete is not waited for any longer.
            self._drop(set(self._sites))
        if self.armed_at is None and self.gates:
            seconds = self._vm.clock.seconds()
            self.armed_at = f"{how}, {seconds:.3f} s into the run"
            self.polling = False
            if self._code is not None and self.bias is None:
                self.notes.append(
                    f"the lidt of {self._code.name} was not seen: is it the kernel that runs?"
                )

    # Breakpoints ---------------------------------------------------------------------------

    def _insert(self, addresses: Iterable[int]) -> None:
        wanted = [self._vm.hardware(at) for at in addresses]
        try:
            self._vm.stub.insert(*wanted)
        except StubError as error:
            missing = [b for b in wanted if b not in self._vm.stub.breaks]
            self.notes.append(
                f"{len(missing)} of {len(wanted)} breakpoints were refused ({error.number})"
            )

    def _drop(self, addresses: set[int]) -> None:
        for at in addresses:
            if self._sites.pop(at, None) is None:
                self.gates.pop(at, None)
        stay = self.addresses | {b.address for b in self._vm.users}
        gone: list[Break] = [self._vm.hardware(at) for at in addresses if at not in stay]
        self._vm.stub.remove(*gone)


def _by_weight(gates: Mapping[int, tuple[int, ...]]) -> list[int]:
    def weight(address: int) -> int:
        vector = gates[address][0]
        return MOST_TELLING.index(vector) if vector in MOST_TELLING else EXCEPTIONS + vector

    return sorted(gates, key=weight)


def _listed(vectors: Sequence[int]) -> str:
    return ", ".join(str(v) for v in vectors)
