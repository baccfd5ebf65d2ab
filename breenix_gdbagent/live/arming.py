"""When the agent begins to catch faults: at a point that the guest determines.

Breakpoints stand on the first instruction of each exception handler, so that a fault stops before
anything of it is lost. The handlers are known once the kernel has loaded its IDT, and that moment
is caught in one of three ways:

- a guest that runs already has its IDT loaded: at once;
- with the kernel's ELF, before the guest starts: hardware breakpoints on every place where the
  code may hold a ``lidt m``, at every address the kernel may be loaded. A hit proves the address
  by comparing code; one single step executes the ``lidt``;
- without: the monitor is asked for IDTR whenever serial text arrives, until it is a kernel's.
  What happened before that is not caught, and we say so.

An IDT is a kernel's where it lies above 4 GiB, as no firmware's does, or where its gates lead into
the ELF's own code. Of a guest that somebody else started and whose ELF is not given, one whose
gates lead to memory that is mapped is taken too: it may be the firmware's until the kernel loads
its own, which is seen as soon as it is asked for.

The IDT is read again at each later stop: gates that became present are armed too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.cpu import Cpu, DescriptorTable
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.link.breakpoints import Break
from breenix_gdbagent.link.hmptext import HiddenRegisters
from breenix_gdbagent.live.catching import FAULTS, POLL_SECONDS, Arms, Catching
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.guest import FIRMWARE_TOP
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.x86.control import EFER_LMA
from breenix_gdbagent.x86.descriptors import GATE_SIZE, INTERRUPT_GATE, TRAP_GATE, parse_gate

if TYPE_CHECKING:
    from breenix_gdbagent.live.elfcode import KernelCode

EXCEPTIONS = 32
NOT_FAULTS = (1, 2, 3)
"""#DB, NMI and #BP: ordinary events."""

MOST_TELLING = (14, 13, 8, 6, 12, 0, 10, 11)
"""Armed first, for where breakpoints are few (4 under KVM)."""

COMPLETE = {8, 13, 14}
"""With these gates present an IDT is a kernel's last one."""


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


class Arming(Catching):
    """The breakpoints that catch faults and panics of one guest."""

    def __init__(self, vm: Arms, clock: RunClock, *, attached: bool = False) -> None:
        super().__init__(vm, clock)
        self._attached = attached
        self.gates: dict[int, tuple[int, ...]] = {}
        self._code: KernelCode | None = None
        self._kernel: Path | None = None
        self._elf: KernelCode | None = None
        self._refused: set[DescriptorTable] = set()
        self._sites: dict[int, tuple[int, int]] = {}
        self._panics: tuple[int, ...] = ()
        self._panic_at: set[int] = set()
        self._table = b""
        self._polled = -POLL_SECONDS

    # Three ways to begin -------------------------------------------------------------------

    def before_start(self, kernel: Path, *, identity: bool, panics: Sequence[int]) -> None:
        """Wait for the own ``lidt`` of the ELF `kernel`. `panics` are link-time addresses.
        Raises `InputError`."""
        from breenix_gdbagent.live.elfcode import KernelCode

        self._elf = self._code = code = KernelCode.read(kernel)
        self._kernel = kernel
        self._panics = tuple(panics)
        sites = code.lidt_sites()
        self._sites = {
            base + site: (base, site) for base in code.bases(identity=identity) for site in sites
        }
        if not sites:
            self.notes.append(f"{code.name} has no lidt instruction")
        self.polling = True
        self._want()

    def now(self, kernel: Path | None, bias: int | None, panics: Sequence[int]) -> None:
        """Of a guest that is stopped with its IDT loaded; else poll for it. `bias` is that of the
        ELF `kernel`, where it is known. Raises `InputError`."""
        if kernel is not None:
            from breenix_gdbagent.live.elfcode import KernelCode

            self._elf = KernelCode.read(kernel)
        self.bias = bias
        self._panics = tuple(panics)
        self.polling = True
        self._begin("the guest stood still with")

    def poll(self) -> None:
        """Serial text has arrived from the running guest, which is not stopped for this."""
        now = self._clock.seconds()
        if not self.polling or now - self._polled < (POLL_SECONDS if self._sites else 0):
            return
        self._polled = now
        if any(self._is_new(hidden) for hidden in self._vm.hidden_running().values()):
            self._vm.pause_for(lambda: self._begin("after the serial text showed it running,"))

    def _is_new(self, hidden: HiddenRegisters) -> bool:
        """Whether a CPU in 64-bit mode has an IDT that was not looked at before. Where the kernel's
        own ``lidt`` is awaited one below 4 GiB is the firmware's, and no reason to stop the guest:
        the kernel's own comes by that instruction."""
        table = hidden.idtr
        if table is not None and self._sites and table.base < FIRMWARE_TOP:
            return False
        if table is None or not table.limit or not (hidden.efer or 0) & EFER_LMA:
            return False
        return table != self.idtr and table not in self._refused

    def _begin(self, how: str) -> None:
        """Arm the gates of the IDT that is loaded now, if it is a kernel's."""
        for hidden in self._vm.hidden().values():
            table = hidden.idtr
            if table is None or not table.limit or hidden.efer is None:
                continue
            if hidden.efer & EFER_LMA and table != self.idtr and self._is_kernels(table):
                self._load(table, f"{how} its IDT at {hex64(table.base)} loaded")
                return

    def _is_kernels(self, table: DescriptorTable) -> bool:
        """Whether an IDT is to be watched; why one is not is told in `unwatched`."""
        if table.base >= FIRMWARE_TOP:
            return True
        length = min((table.limit or 0) + 1, EXCEPTIONS * GATE_SIZE)
        raw = self._vm.read_or_none(table.base, length)
        handlers = [] if raw is None else list(gates_of(raw))
        leads = self._in_elf if self._elf is not None else self._in_memory
        if any(leads(at) for at in handlers):
            return True
        self._refused.add(table)
        where = f"the IDT at {hex64(table.base)}, below 4 GiB,"
        if raw is None:
            self.unwatched = f"{where} is not mapped"
        elif not handlers:
            self.unwatched = f"{where} has no gate of an exception"
        elif self._elf is not None:
            self.unwatched = f"no gate of {where} leads into {self._elf.name}"
        else:
            self.unwatched = f"no gate of {where} leads to mapped memory"
        return False

    def _in_elf(self, handler: int) -> bool:
        """Whether a handler is the ELF's code: the same bytes are there."""
        assert self._elf is not None
        bias = self.bias if self.bias is not None else self._elf.fixed_bias
        if bias is None:
            return False
        wanted = self._elf.at(handler - bias)
        return wanted is not None and self._vm.read_or_none(handler, len(wanted)) == wanted

    def _in_memory(self, handler: int) -> bool:
        return self._attached and self._vm.read_or_none(handler, 1) is not None

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
            if self._is_own(rip):
                self._vm.step_over(thread)
            return None
        return StopReason("breakpoint", cpu, text=hex64(rip))

    def awaits(self, rip: int) -> bool:
        """Whether the kernel's own ``lidt`` may be at an address."""
        return rip in self._sites

    def stepped(self, cpu: int, rip: int) -> bool:
        """One instruction at `rip` has run; True where it was the own ``lidt``, by which faults are
        caught from now on."""
        if rip not in self._sites or not self._is_own(rip):
            return False
        hidden = self._vm.hidden().get(cpu)
        table = hidden.idtr if hidden is not None else None
        if table is None or not table.limit:
            return False
        self._load(table, f"the kernel loaded its IDT at {hex64(table.base)}")
        return True

    def _is_own(self, rip: int) -> bool:
        """Whether a site has the ELF's code, which proves where it is loaded; else it is none."""
        base, site = self._sites[rip]
        if self.bias is None and not self._proved(base, site):
            assert self._code is not None
            self.notes.append(
                f"at {hex64(rip)} the guest has other code than {self._code.name}: "
                "it is not the kernel that runs, or not at this address"
            )
            self._drop({rip})
            return False
        if self.bias is None:
            self.bias = base
            self._drop({at for at, (other, _) in self._sites.items() if other != base})
        return True

    def _proved(self, base: int, site: int) -> bool:
        """Whether the guest has the ELF's code at `base`."""
        assert self._code is not None
        return self._code.stands_at(base, site, self._vm.read_or_none)

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
        self.gates = gates_of(table, self.passing)
        self._want()

    def at_stop(self, cpus: Sequence[Cpu]) -> None:
        """IDTR as a full stop found it: armed now if it was not yet; and the kernel may have
        loaded another IDT since."""
        for cpu in cpus:
            table, efer = cpu.idtr, cpu.get("efer")
            if table is None or not table.limit or efer is None or not efer & EFER_LMA:
                continue
            if table == self.idtr or not self._is_kernels(table):
                continue
            if self.idtr is not None or self.polling:
                self._load(table, f"a stop found its IDT at {hex64(table.base)} loaded")
                return

    def _load(self, table: DescriptorTable, how: str) -> None:
        self.idtr = table
        self.refresh(self._vm.read_or_none(table.base, (self.table_request() or (0, 0))[1]))
        if self.bias is None and self._kernel is not None:
            self._place(self._kernel)
        if self.bias is not None or self._code is None:
            self._panic_at = {(self.bias or 0) + at for at in self._panics}
        if {v for vectors in self.gates.values() for v in vectors} >= COMPLETE:
            # Each breakpoint costs a TCG guest some 2 % (QEMU goes through the list at every
            # look-up of translated code): an IDT that is complete is not waited for any longer.
            self._sites.clear()
        self._want()
        if self.armed_at is None and self.gates:
            seconds = self._clock.seconds()
            self.armed_at = f"{how}, {seconds:.3f} s into the run"
            self.unwatched = ""
            # Below 4 GiB, and no ELF to compare with: the kernel's own may be still to come.
            self.polling = table.base < FIRMWARE_TOP and self._elf is None
            if self._code is not None and self.bias is None:
                self.notes.append(
                    f"the lidt of {self._code.name} was not seen: is it the kernel that runs?"
                )

    def _place(self, kernel: Path) -> None:
        """The load bias, wherever the kernel is, from the code that the IDT leads to: its own
        ``lidt`` was awaited where bootloaders put kernels mostly, and one may be anywhere."""
        from breenix_gdbagent.symbols.bias import find_bias
        from breenix_gdbagent.symbols.image import Image

        def read(va: int, length: int) -> bytes:
            data = self._vm.read_or_none(va, length)
            if data is None:
                raise ReadError(f"{hex64(va)} is not mapped")
            return data

        gates = {vector: at for at, vectors in self.gates.items() for vector in vectors}
        try:
            found = find_bias(Image.open(kernel), Cpu(0, {}), read, idt_gates=gates)
            self.bias = found.value if found.proved else None
        except InputError as another:
            self.notes.append(another.what)
        except ReadError:
            return  # not this kernel's IDT, or not yet

    # Breakpoints ---------------------------------------------------------------------------

    def _want(self) -> None:
        """Hardware breakpoints, because the code may not be there yet."""
        places = (*self._sites, *_by_weight(self.gates), *self._panic_at)
        self._vm.ledger.set_wanted(FAULTS, (Break("hardware", at) for at in places))

    def _drop(self, addresses: set[int]) -> None:
        for at in addresses:
            self._sites.pop(at, None)
        self._want()


def _by_weight(gates: Mapping[int, tuple[int, ...]]) -> list[int]:
    def weight(address: int) -> int:
        vector = gates[address][0]
        return MOST_TELLING.index(vector) if vector in MOST_TELLING else EXCEPTIONS + vector

    return sorted(gates, key=weight)


def _listed(vectors: Sequence[int]) -> str:
    return ", ".join(str(v) for v in vectors)
