"""A stopped guest, read: its registers, memory and serial text become a `Stop`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from breenix_gdbagent.addresses import PAGE, PhysAddr, hex64
from breenix_gdbagent.arch.cpu import Arch, Cpu
from breenix_gdbagent.errors import InputError, LinkClosed, LinkError, LinkTimeout
from breenix_gdbagent.link.gdbstub import GdbStub, RunState, Thread
from breenix_gdbagent.link.hmptext import (
    HiddenRegisters,
    parse_clock_port,
    parse_phys_bits,
    parse_pic,
    parse_port,
    parse_ram_map,
    parse_registers,
)
from breenix_gdbagent.link.memory import ProcessMemory, StubMemory
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.console import Console
from breenix_gdbagent.live.frozen import FrozenMemory, NoMemory
from breenix_gdbagent.live.signals import Uncut
from breenix_gdbagent.memory import PhysicalMemory, RamMap
from breenix_gdbagent.stop import SerialText, Stop, StopReason

if TYPE_CHECKING:
    from breenix_gdbagent.configs import Config
    from breenix_gdbagent.link.qemu import QemuProcess
    from breenix_gdbagent.link.qmp import Qmp
    from breenix_gdbagent.link.serial import SerialLines
    from breenix_gdbagent.memory.ramfile import RamFile
    from breenix_gdbagent.x86.pic import Pic

DYING_SECONDS = 2.0
_NO_INTERRUPTS = ("breakpoint", "step", "marker")
"""Stops that are of no exception, and often: to ask for the PIC takes as long as for the CPUs."""
FIRST_CPU = "/machine/unattached/device[0]"
"""The first device that QEMU makes of its own."""
FIRMWARE_TOP = 1 << 32
"""No firmware's IDT lies above 4 GiB."""


class Holds(NamedTuple):
    """What we hold the guest by. `process` is the QEMU that we started, None when attached;
    `pid` that of an attached one, 0 where it is not known."""

    stub: GdbStub
    qmp: Qmp | None = None
    serial: SerialLines | None = None
    process: QemuProcess | None = None
    ram_file: Path | None = None
    ram_map: RamMap | None = None
    pid: int = 0
    config: Config | None = None
    was_running: bool | None = None


class Guest:
    """What can be asked of a guest. `live.vm.LiveVm` adds run control.

    `reading(done, total)` is called while all of RAM comes through the stub, which lasts.
    """

    def __init__(self, holds: Holds, clock: RunClock) -> None:
        self.stub = holds.stub
        self.clock = clock
        self.epoch = 0
        self._holds = holds
        self._ram: RamMap | None = holds.ram_map
        self._past_firmware = False
        self._clock_port: int | None = None
        self._clock_then: int | None = None
        self._width: int | None = None
        self._width_asked = False
        self._memory: RamFile | ProcessMemory | None = None
        self._at_exit: tuple[Cpu, ...] = ()
        self.reading: Callable[[int, int], None] = lambda done, total: None
        self.adapter = None if holds.config is None else holds.config.adapter
        self.console = Console(holds.serial, holds.config)

    @property
    def config(self) -> Config | None:
        """The machine, of a guest that we started."""
        return self._holds.config

    @property
    def arch(self) -> Arch:
        """The architecture, as the gdbstub says."""
        return self.stub.arch

    @property
    def qemu_version(self) -> str | None:
        """``7.2.22``, as QMP says; None without QMP."""
        return self._holds.qmp.version if self._holds.qmp is not None else None

    @property
    def ram_file(self) -> Path | None:
        """The file that is the guest's RAM, where there is one."""
        return self._holds.ram_file

    @property
    def running(self) -> bool:
        return self.stub.state is RunState.RUNNING

    @property
    def exited(self) -> bool:
        """Whether QEMU, or the connection to it, has ended."""
        return self.stub.state is RunState.CLOSED

    @property
    def serial(self) -> SerialText:
        """All serial text so far."""
        return self.console.text

    # Reading -------------------------------------------------------------------------------

    def stop(self, reason: StopReason | None = None, *, hidden: bool = True) -> Stop:
        """The guest as it stands now, all CPUs. Its memory is refused once the guest runs on.
        Without `hidden` the registers that the gdbstub lacks (IDTR, GDTR, TR) are not asked for.

        After QEMU's end there are no CPUs, unless it waited before it ended, and RAM only where it
        was a file. Raises `LinkError`, `QemuDied`.
        """
        why = reason if reason is not None else StopReason("attached")
        self.console.sync()
        if self.exited:
            cpus = self._at_exit
            memory = self._memory_after_exit()
        else:
            with self._uncut():
                if self._holds.qmp is not None:
                    self._holds.qmp.events()
                memory = self.memory()
                cpus = self._cpus(hidden)
                if self._untold:
                    self._clock_then = self._virtual_clock()
        return Stop(
            cpus=cpus,
            memory=FrozenMemory(memory, lambda: self.epoch),
            reason=why,
            serial=self.serial,
            epoch=self.epoch,
            seconds=self.clock.seconds(),
            pic=self._pic(why),
            adapter=self.adapter,
        )

    def _pic(self, why: StopReason) -> Pic | None:
        """The interrupt controllers, where an interrupt may be what the stop is about."""
        return None if why.kind in _NO_INTERRUPTS else self.pic()

    def pic(self) -> Pic | None:
        """What QEMU says now of the interrupt controllers; None where it cannot be asked or has
        none. Raises `LinkClosed`."""
        qmp = self._holds.qmp
        if qmp is None or self.exited or not self.arch.descriptor_tables:
            return None
        try:
            return parse_pic(qmp.hmp("info pic"))
        except LinkClosed:
            raise
        except LinkError:
            return None

    def disturbed(self) -> bool | None:
        """Whether somebody else has let the guest run since `stop`: what was read meanwhile is of
        more than one moment. None: nothing that could tell is there.

        By QEMU's events; without QMP by the stop that the stub tells of unasked (QEMU before 8), or
        by the guest's clock, which has moved then. Raises `LinkError`.
        """
        if self.exited or self.running:
            return False
        qmp = self._holds.qmp
        if qmp is not None:
            qmp.status()  # its events come in front of its answers
            return any(event.name == "RESUME" for event in qmp.events())
        self.stub.ask(b"qC")  # what came before its answer is there then
        if self.stub.link.take_stops():
            return True
        if not self._untold:
            return False
        now = self._virtual_clock()
        return None if now is None or self._clock_then is None else now != self._clock_then

    @property
    def _untold(self) -> bool:
        """Whether nobody tells us when the guest runs or stops: no QMP, and a stub that did not
        tell of the stop that connecting made."""
        return self._holds.qmp is None and self._holds.was_running is None

    def _virtual_clock(self) -> int | None:
        """A counter that moves while the guest runs, whoever lets it; None: none is known."""
        if self._clock_port is None:
            self._clock_port = parse_clock_port(self._monitor("info mtree -f"))
        if self._clock_port is None:
            return None
        return parse_port(self._monitor(f"i /w {self._clock_port:#x}"))

    def _cpus(self, wanted: bool) -> tuple[Cpu, ...]:
        hidden: Mapping[int, Cpu | HiddenRegisters]
        qmp = self._holds.qmp
        if not wanted or not self.arch.descriptor_tables:
            hidden = {}
        elif qmp is not None and qmp.passes_files and self._ram is not None:
            hidden = {cpu.index: cpu for cpu in qmp.cpus(self._ram.ranges[0].start)}
        else:
            hidden = self.hidden()
        width = self._phys_bits() if wanted else self._width
        name = self.arch.name
        threads = self.stub.threads()
        cpus = tuple(_cpu(one, hidden.get(one.cpu), width, name) for one in threads)
        tables = [cpu.idtr for cpu in cpus if cpu.idtr is not None]
        self._past_firmware = self._ram is not None and any(
            table.base >= FIRMWARE_TOP for table in tables
        )
        return cpus

    def _phys_bits(self) -> int | None:
        """How many bits physical addresses have on the CPUs, which are all of one kind; asked once.
        The first CPU is the first device that QEMU makes of its own (hw/i386/x86.c)."""
        if not self._width_asked and self.arch.descriptor_tables:
            self._width_asked = True
            self._width = parse_phys_bits(self._monitor(f"qom-get {FIRST_CPU} phys-bits"))
        return self._width

    def hidden(self) -> Mapping[int, HiddenRegisters]:
        """What the gdbstub lacks, by CPU; empty where QEMU's monitor cannot be asked."""
        return parse_registers(self._monitor("info registers -a"))

    def hidden_running(self) -> Mapping[int, HiddenRegisters]:
        """The same of a running guest, without stopping it: by QMP only."""
        if self._holds.qmp is None:
            return {}
        return parse_registers(self._holds.qmp.hmp("info registers -a"))

    def hmp(self, line: str) -> str:
        """What QEMU's human monitor prints, by QMP. Raises `LinkError`."""
        if self._holds.qmp is None:
            raise LinkError("QEMU's monitor is not connected", fix="give --qmp PATH")
        return self._holds.qmp.hmp(line)

    def _monitor(self, line: str) -> str:
        if self._holds.qmp is not None:
            return self._holds.qmp.hmp(line)
        try:
            return self.stub.monitor(line)
        except LinkClosed:
            raise
        except LinkError:
            return ""

    def ram_map(self) -> RamMap | None:
        """Where RAM is now; None: not known. Asked again at each stop only while firmware runs,
        which moves the BIOS area in and out."""
        if self._holds.ram_map is None and not self._past_firmware:
            found = parse_ram_map(self._monitor("info mtree -f"))
            self._ram = found if found.ranges else None
        return self._ram

    def memory(self) -> PhysicalMemory:
        """Physical memory by the best way there is: RAM file, QEMU's process, the stub."""
        before = self._ram
        ram = self.ram_map()
        if ram is not None and before is not None and before.ranges == ram.ranges:
            ram = self._ram = before
        if self._memory is not None and ram is not None and self._memory.ram is ram:
            return self._memory
        self._memory = None
        holds = self._holds
        if holds.ram_file is not None and ram is not None:
            from breenix_gdbagent.memory.ramfile import RamFile

            file = RamFile(holds.ram_file, ram)
            if holds.process is None and self.stub.reads_physical and not self.running:
                self._compare(file, ram)
            self._memory = file
        elif holds.qmp is not None and ram is not None:
            self._memory = self._by_process(holds.pid, ram)
        if self._memory is not None:
            return self._memory
        return StubMemory(self.stub, ram, self._behind_the_stub, lambda *at: self.reading(*at))

    def _compare(self, file: RamFile, ram: RamMap) -> None:
        """Refuse a RAM file that is not this guest's, by what the stub reads: the start of each
        range, the top page table and the page that RSP is in. Raises `InputError`."""
        from breenix_gdbagent.arch.tables import Tables

        samples = [(found.start, min(PAGE, found.end - found.start)) for found in ram.ranges]
        cpu = Cpu(0, self.stub.registers(), arch_name=self.arch.name)
        if cpu.paging is not None and cpu.root is not None and cpu.stack is not None:
            stack = self.arch.paging.walk(Tables(file), cpu.root, cpu.stack, cpu.paging).pa
            pages = (cpu.root, 0 if stack is None else stack // PAGE * PAGE)
            samples += [(PhysAddr(pa), PAGE) for pa in pages if ram.holds(pa, PAGE)]
        read = self.stub.read_physical(samples)
        for (pa, length), data in zip(samples, read, strict=True):
            if file.read(pa, length) != data:
                raise InputError(
                    f"{file.file.name} is not the RAM of this guest: it differs at physical "
                    f"{hex64(pa)}",
                    fix="give the mem-path of its own memory-backend-file (with share=on)",
                )

    def _by_process(self, pid: int, ram: RamMap) -> ProcessMemory | None:
        asks = self.stub.reads_physical and not self.running
        witness = self.stub.read_physical if asks else None
        return ProcessMemory.open(pid, ram, self._monitor, witness)

    def _behind_the_stub(self) -> ProcessMemory | None:
        """The memory of the QEMU at the other end of the stub's socket, where that is ours to
        read: looked for when the stub alone would take long."""
        if self._ram is not None and (pid := self.stub.link.peer) > 0:
            self._memory = self._by_process(pid, self._ram)
            return self._memory
        return None

    def recent_memory(self) -> PhysicalMemory:
        """As `memory`, with RAM where it was at the last full stop: no question to QEMU."""
        return self._memory or self.memory()

    def _memory_after_exit(self) -> PhysicalMemory:
        if self._memory is not None and self._holds.ram_file is not None:
            return self._memory
        return NoMemory("QEMU has ended")

    def read(self, va: int, length: int) -> bytes:
        """Virtual memory as the CPU that stopped sees it. Raises `LinkError`."""
        with self._uncut():
            return self.stub.read(va, length)

    def read_or_none(self, va: int, length: int) -> bytes | None:
        """`read`; None where it is not mapped."""
        try:
            with Uncut():
                return self.stub.read(va, length)
        except LinkClosed:
            raise
        except LinkError:
            return None

    @contextmanager
    def _uncut(self) -> Iterator[None]:
        """`_dying`, and no signal cuts the conversation in two."""
        with Uncut(), self._dying():
            yield

    @contextmanager
    def _dying(self) -> Iterator[None]:
        """A connection that breaks because QEMU ended is told as QEMU's end (`QemuDied`), and a
        silence because QEMU was stopped as that."""
        try:
            yield
        except LinkTimeout as error:
            from breenix_gdbagent.link.peer import with_cause

            process = self._holds.process
            pid = self._holds.pid if process is None else process.pid
            raise with_cause(error, pid or self.stub.link.peer) from None
        except LinkClosed as error:
            process = self._holds.process
            died = process.died(DYING_SECONDS) if process is not None else None
            self.stub.has_ended()
            if died is None:
                raise
            raise died from error


def _cpu(
    thread: Thread, hidden: Cpu | HiddenRegisters | None, width: int | None, arch: str
) -> Cpu:
    cpu = Cpu(
        index=thread.cpu,
        registers=thread.registers,
        halted=thread.halted,
        phys_bits=width,
        arch_name=arch,
    )
    if hidden is None:
        return cpu
    return cpu._replace(
        gdtr=hidden.gdtr,
        idtr=hidden.idtr,
        tr=hidden.tr,
        ldtr=hidden.ldtr,
        code_64=hidden.code_64,
        halted=thread.halted if thread.halted is not None else hidden.halted,
    )
