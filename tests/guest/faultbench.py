"""A lab guest stopped at a chosen moment, its tables and registers changed by the test, and then
one instruction of it run under QEMU's own log: what the CPU does judges what we predict."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from breenix_gdbagent.kernel.image import attach_image
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.x86.cpu import Cpu
from tests.guest.live_support import ELF, lab

USER_ENTRY = 0x40000000
BASE = 0x8000000000
IF = 1 << 9
_ENTRY = re.compile(r"^ *\d+: v=([0-9a-f]{2}) e=([0-9a-f]{4}) i=(\d) cpl=(\d)", re.MULTILINE)


@dataclass(frozen=True)
class Did:
    """What QEMU's log says: every delivery that was tried, in order, as (vector, error code)."""

    deliveries: tuple[tuple[int, int], ...]
    triple: bool


class Bench:
    """The guest stands still; `poke` and `set` change it, `go` lets it run."""

    def __init__(self, vm: LiveVm, log: Path) -> None:
        self.vm = vm
        self.log = log
        self.kernel = Kernel(vm.stop())

    @property
    def cpu(self) -> Cpu:
        return self.kernel.stop.cpu

    @property
    def root(self) -> int:
        assert self.cpu.root is not None
        return self.cpu.root

    def pa(self, va: int) -> int:
        """Where `va` is in RAM, by the tables before any change."""
        found = self.kernel.walk(self.root, va).pa
        assert found is not None, hex(va)
        return found

    def poke(self, pa: int, data: bytes) -> None:
        """Writes RAM through the stub, which also drops what QEMU has translated there."""
        with self.vm.stub.physical():
            (answer,) = self.vm.stub.ask(b"M%x,%x:%b" % (pa, len(data), data.hex().encode()))
        assert answer == b"OK"

    def poke64(self, pa: int, value: int) -> None:
        self.poke(pa, value.to_bytes(8, "little"))

    def write(self, va: int, data: bytes) -> None:
        self.poke(self.pa(va), data)

    def leaf(self, va: int) -> tuple[int, int]:
        """(physical address, value) of the entry that maps `va`."""
        leaf = self.kernel.walk(self.root, va).leaf
        assert leaf is not None, hex(va)
        return leaf.entry_pa, leaf.raw

    def clear(self, va: int, bits: int = 1) -> None:
        """Clears bits of the leaf of `va` (1: present, 2: writable)."""
        entry_pa, raw = self.leaf(va)
        self.poke64(entry_pa, raw & ~bits)

    def set(self, **registers: int) -> None:
        for name, value in registers.items():
            self.vm.stub.write_register(name, value)

    def gate(self, vector: int, change: Callable[[bytearray], None]) -> None:
        """Changes the 16 bytes of one gate."""
        assert self.cpu.idtr is not None
        at = self.pa(self.cpu.idtr.base + vector * 16)
        raw = bytearray(self.kernel.stop.memory.read(at, 16))  # type: ignore[arg-type]
        change(raw)
        self.poke(at, bytes(raw))

    def tss(self, offset: int, value: int) -> None:
        assert self.cpu.tr is not None
        for i, byte in enumerate(value.to_bytes(8, "little")):
            self.poke(self.pa(self.cpu.tr.base + offset + i), bytes([byte]))

    def settle(self) -> Stop:
        """The guest as it is now, with nothing cached of the tables before."""
        self.set(cr3=self.cpu.registers["cr3"])  # drops QEMU's TLB
        return attach_image(self.vm.stop(), ELF)

    def go(self, seconds: float = 5.0) -> tuple[Stop, Did]:
        """Run on to the next fault or shutdown; the stop, and what QEMU logged."""
        self.vm._monitor(f"logfile {self.log}")
        self.vm._monitor("log int,cpu_reset")
        stop = self.vm.run_until([], seconds)
        self.vm._monitor("log none")
        text = self.log.read_text()
        found = tuple((int(v, 16), int(e, 16)) for v, e, _i, _cpl in _ENTRY.findall(text))
        return attach_image(stop, ELF), Did(found, "Triple fault" in text)


@contextmanager
def bench(log: Path, ring: int, cpu: str = "qemu64") -> Iterator[Bench]:
    """The lab guest at the first instruction of a process (ring 3), or of `syscall_entry` (0);
    interrupts are off, so that nothing comes between."""
    at = USER_ENTRY if ring == 3 else BASE + Image.open(ELF).address_of("syscall_entry")
    with lab("clean", cpu=cpu) as vm:
        vm.arm(ELF)
        there = vm.insert(at)
        stop = vm.run_until([], 20)
        assert stop.cpu.rip == at, stop
        vm.remove(there)
        vm.stub.write_register("eflags", stop.cpu.registers["eflags"] & ~IF)
        yield Bench(vm, log)
