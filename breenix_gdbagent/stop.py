"""`Stop`: a stopped kernel as a value, and all that the rooms above read of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from breenix_gdbagent.arch.cpu import Arch, Cpu, Mode
from breenix_gdbagent.architectures import ARCHITECTURES as ARCHITECTURES
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.memory import PhysicalMemory
from breenix_gdbagent.x86.pic import Pic

if TYPE_CHECKING:
    from breenix_gdbagent.symbols import Image, LoadedImage


class StopReason(NamedTuple):
    """Why the guest is stopped.

    kind: ``fault`` (at the first instruction of a gate's handler, `vector` set), ``shutdown`` (a
    triple fault or a reboot, until the checks tell them apart; with `text` where it may also be
    that the machine was switched off), ``panic`` (at the panic handler, or with `text` by the
    guest's word to QEMU),
    ``halted`` (every CPU halts with interrupts off), ``handler`` (inside a handler that gives up),
    ``marker`` (serial text matched), ``deadline``, ``interrupt`` (asked for), ``breakpoint``,
    ``step``, ``exit`` (the guest switched the machine off, or QEMU has ended: then
    nothing is left to read but what was read before), ``attached``, ``core`` (a bare core:
    why is not known). `resets` is how often the guest had reset itself before a ``shutdown``.
    """

    kind: str
    cpu: int = 0
    vector: int | None = None
    text: str = ""
    exit_status: int | None = None
    resets: int = 0


class SerialChunk(NamedTuple):
    """Bytes that arrived together from one port, `seconds` after the start of the run."""

    port: int
    seconds: float
    data: bytes


class SerialText(NamedTuple):
    """All serial text up to the stop, every port, in order of arrival."""

    chunks: tuple[SerialChunk, ...] = ()

    def port(self, number: int) -> str:
        """Text of one port (0 is COM1), undecodable bytes replaced."""
        return b"".join(c.data for c in self.chunks if c.port == number).decode("utf-8", "replace")

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(sorted({c.port for c in self.chunks}))

    def lines(self) -> list[str]:
        """All ports' lines, port after port."""
        return [line for p in self.ports for line in self.port(p).splitlines()]


class AdapterSource(NamedTuple):
    """Which adapter was chosen for the kernel: its name, and of one that is only data its TOML."""

    name: str
    text: str = ""


class Stop(NamedTuple):
    """CPUs, memory, serial text, the reason, and the kernel's ELF, frozen at one moment.

    `epoch` counts stops of one run: whatever is cached belongs to one epoch. `seconds` is the
    guest's running time since the start of the run. `image` is the ELF where it runs; `unplaced`
    the ELF that was given while it is not known where, for the reason `unplaced_why`. `pic` is what
    QEMU says of the interrupt controllers, None where it was not asked or has none. `adapter` is
    the one that was chosen for the kernel; None: the kernel itself shows which.
    """

    cpus: tuple[Cpu, ...]
    memory: PhysicalMemory
    reason: StopReason
    serial: SerialText = SerialText()
    image: LoadedImage | None = None
    epoch: int = 0
    seconds: float = 0.0
    unplaced: Image | None = None
    unplaced_why: str = "the kernel has not come to load its IDT"
    pic: Pic | None = None
    adapter: AdapterSource | None = None

    def __repr__(self) -> str:
        """One line, whatever memory and serial text hang on it."""
        reason, cpu = self.reason, self.cpu
        vector = "" if reason.vector is None else f" {reason.vector}"
        rip = cpu.at
        at = "" if rip is None else f" at {rip:#x}"
        name = self.image.name_of(rip) if self.image is not None and rip is not None else None
        stale = ", stale: the guest has run since" if self.stale else ""
        where = f"{at} <{name}>" if name else at
        return f"<Stop: {reason.kind}{vector}, CPU {cpu.index}{where}, {self.seconds:.3f} s{stale}>"

    def _repr_html_(self) -> str:
        """The stop and its CPUs' registers as a table."""
        from html import escape  # not for commands: its table of entities takes 1.3 ms

        rows = "".join(
            f"<tr><td>CPU {cpu.index}</td><td><code>{name}</code></td>"
            f"<td><code>{value:#x}</code></td></tr>"
            for cpu in self.cpus
            for name, value in cpu.registers.items()
            if name in ("rip", "rsp", "cr2", "cr3", "eflags")
        )
        return f"<p>{escape(repr(self)[1:-1])}</p><table>{rows}</table>"

    @property
    def stale(self) -> bool:
        """Whether the guest has run since: nothing more can be read of it then."""
        return bool(getattr(self.memory, "stale", False))

    @property
    def loaded(self) -> LoadedImage:
        """The kernel's ELF where it runs. Raises `ReadError` that says what is missing."""
        if self.image is not None:
            return self.image
        if self.unplaced is not None:
            raise ReadError(
                f"where {self.unplaced.path.name} runs is not known yet: {self.unplaced_why}",
                fix="let the guest run on (in the shell: continue), then ask again",
            )
        raise ReadError("no kernel ELF is known for this stop", fix="give --kernel ELF")

    @property
    def elf(self) -> Image:
        """The kernel's ELF, wherever it runs. Raises `ReadError` without one."""
        return self.unplaced if self.unplaced is not None else self.loaded.image

    @property
    def cpu(self) -> Cpu:
        """The CPU that the stop is about; one without registers after QEMU's end."""
        for cpu in self.cpus:
            if cpu.index == self.reason.cpu:
                return cpu
        return self.cpus[0] if self.cpus else Cpu(self.reason.cpu, {})

    @property
    def arch(self) -> Arch:
        """The architecture of the machine."""
        return self.cpu.arch

    @property
    def paging(self) -> Mode | None:
        """Paging mode of that CPU, else of any CPU with paging on; None in early boot."""
        modes = (cpu.paging for cpu in (self.cpu, *self.cpus))
        return next((mode for mode in modes if mode is not None), None)

    @property
    def no_paging(self) -> str:
        """Why `paging` is None, in words: a state, as every boot passes through it."""
        if not self.cpus:
            why = "QEMU has ended" if self.reason.kind == "exit" else "this is RAM alone"
            return f"no CPU's registers are known: {why}"
        return no_paging(self.cpu)


def no_paging(cpu: Cpu) -> str:
    """Why `cpu` translates no addresses, in words."""
    return cpu.arch.no_translation(cpu)
