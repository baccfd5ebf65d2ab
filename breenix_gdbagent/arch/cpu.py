"""`Cpu`: one stopped CPU by its registers' names; `Arch`: all that an architecture answers.

A second architecture is a room beside the first: it derives from `Arch` and `Paging` and enters
itself by `register`. What reads a stop asks these and tests for no architecture's name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.arch.descriptors import Gate, Tss
from breenix_gdbagent.arch.spaces import SpaceReader, Stretch
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.arch.taken import Taken
from breenix_gdbagent.arch.vectors import VectorTable
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.memory import PhysicalMemory
from breenix_gdbagent.memory.elf import Note

ReadVirtual = Callable[[int, int], bytes]
FIRST = "x86-64"
"""The architecture of a CPU of which nothing else is said."""


class DescriptorTable(NamedTuple):
    """GDTR or IDTR: linear base and limit (bytes minus one); limit None when not known."""

    base: VirtAddr
    limit: int | None


class SystemSegment(NamedTuple):
    """TR or LDTR: selector, and the hidden base and limit."""

    selector: int
    base: VirtAddr
    limit: int | None


class Mode(Protocol):
    """How a CPU translates: what a walk has to know of it."""

    @property
    def levels(self) -> int:
        """Levels of tables from the top."""

    @property
    def nxe(self) -> bool | None:
        """Whether entries may forbid execution; None where that is not known."""


class Trap(NamedTuple):
    """An access that the CPU refused. `kind`: ``translation`` (nothing is mapped), ``permission``
    or ``malformed`` (the entry is none), each by the entry at `level`; ``address`` (no address at
    all). `access`: ``read``, ``write`` or ``fetch``. `level` is None where no entry says so."""

    kind: str
    access: str
    va: VirtAddr
    level: int | None
    from_user: bool


class Names(NamedTuple):
    """Registers by gdb's names: those that each architecture has one of, and the general ones.
    `unwind` are those by the numbers that call-frame information has for them, the program counter
    last; `kept` a function gives back as they were. `link` holds a call's return address, "" where
    that is pushed."""

    pc: str
    sp: str
    frame: str
    flags: str
    general: tuple[str, ...]
    unwind: tuple[str, ...]
    kept: tuple[str, ...] = ()
    link: str = ""


class ShownRegisters(NamedTuple):
    """How the registers of a CPU are listed: in a grid, with their bits by name, and the others."""

    grid: tuple[str, ...]
    decoded: tuple[str, ...]
    others: tuple[str, ...]


class VirtualReader(Protocol):
    """One address space as a reader sees it."""

    def translate(self, va: int) -> PhysAddr:
        """The physical address. Raises `NotMapped`, `Unreadable`."""

    def read(self, va: int, length: int) -> bytes:
        """Bytes. Raises as `translate`."""

    def u64(self, va: int) -> int:
        """Little-endian."""

    def u32(self, va: int) -> int:
        """Little-endian."""


class CandidateRoot(Protocol):
    """A top table that was found in RAM, and how it was known."""

    @property
    def root(self) -> PhysAddr:
        """Where it is."""

    @property
    def how(self) -> str:
        """By what."""


class Paging(ABC):
    """Page tables as data, and the walk through them."""

    levels: Mapping[int, str] = {}
    """Name of each level, by its number as the manual has it."""

    def bound(self, mode: Mode | None) -> Paging:
        """The same, with sizes and indexes as `mode` has them."""
        return self

    def top(self, mode: Mode | None) -> int:
        """The number of the level that a walk begins at."""
        return mode.levels if mode is not None else 4

    @abstractmethod
    def walk(self, tables: Tables, root: int, va: int, mode: Mode | None) -> Walk:
        """Where `va` leads under the top table at `root`."""

    def walker(self, tables: Tables, mode: Mode | None) -> Callable[[int, int], Walk]:
        """`walk` of (root, address), for one stop: what is asked most often of all."""
        return lambda root, va: self.walk(tables, root, va, mode)

    @abstractmethod
    def span(self, level: int) -> int:
        """Bytes that one entry of a table of `level` serves."""

    @abstractmethod
    def index_at(self, va: int, level: int) -> int:
        """Which entry of a table of `level` translates `va`."""

    def slots_of(self, addresses: Iterable[int], top: int) -> list[int]:
        """Which entry of the top table, which is of level `top`, translates each address."""
        return [self.index_at(va, top) for va in addresses]

    @abstractmethod
    def slot_start(self, slot: int, top: int) -> VirtAddr:
        """The first address that entry `slot` of the top table, of level `top`, serves."""

    @abstractmethod
    def memory(self, tables: Tables, root: int, mode: Mode | None) -> VirtualReader:
        """A reader of one address space."""

    @abstractmethod
    def spaces(self, tables: Tables, mode: Mode | None) -> SpaceReader:
        """Whole spaces as ranges."""

    def stretches(self, tables: Tables, root: int, mode: Mode | None) -> list[Stretch]:
        """All that `root` maps, each table followed once: what small pages map first, in order of
        address, then the large ones."""
        return []

    @abstractmethod
    def roots(
        self, memory: PhysicalMemory, reference: PhysAddr, slots: Sequence[int]
    ) -> Iterable[CandidateRoot]:
        """Top tables in RAM that share with `reference`, by its kernel half or (given) `slots`."""


class Arch(ABC):
    """One architecture. `vectors`: number of an exception -> its name. `qemu_names` end the names
    of QEMU's programs for it; without `record_options` what they record does not replay. A gdbstub
    tells one of `stub_names`, and has `system_registers` (our name -> its) besides those that it
    gives by ``g``."""

    name: str
    elf_machine: int
    qemu_names: tuple[str, ...]
    stub_names: tuple[str, ...] = ()
    system_registers: Mapping[str, str] = {}
    longest = 16
    """Bytes of its longest instruction."""
    calls: tuple[str, ...] = ()
    halts: tuple[str, ...] = ()
    """Mnemonics of the instructions that call, and of those that wait for an interrupt."""
    descriptor_tables = False
    """Whether a CPU has them: GDT, IDT, TSS, which no gdbstub tells, and the controllers of
    interrupts that belong to it."""
    vector_table: VectorTable | None = None
    """How faults are found in a table of code; None where they are found otherwise."""
    record_options: tuple[str, ...] = ()
    alike: Mapping[str, int] = {}
    """Register -> those of its bits that are the same on all CPUs that run one kernel."""
    names: Names
    shown: ShownRegisters = ShownRegisters((), (), ())
    paging: Paging
    vectors: Mapping[int, str] = {}

    @abstractmethod
    def mode(self, cpu: Cpu) -> Mode | None:
        """How it translates, None while it does not or not in a form that is walked."""

    @abstractmethod
    def root(self, cpu: Cpu) -> PhysAddr | None:
        """The top table that the CPU uses for the addresses of programs."""

    @abstractmethod
    def ring(self, cpu: Cpu) -> int | None:
        """Its privilege as x86-64 counts: 0 the kernel's, 3 a program's; None: not known."""

    def interrupted_ring(self, registers: Mapping[str, int]) -> int | None:
        """The `ring` that an exception came from, of a CPU at its handler, where registers tell
        it; None where it takes memory to tell."""
        return None

    @abstractmethod
    def privilege(self, cpu: Cpu) -> str:
        """That in words."""

    def bits(self, register: str, value: int) -> tuple[str, ...]:
        """The bits set in a register of `shown.decoded`, by name."""
        return ()

    def no_translation(self, cpu: Cpu) -> str:
        """Why `mode` is None, in words."""
        return f"CPU {cpu.index} translates no addresses"

    def interrupts_off(self, cpu: Cpu) -> bool | None:
        """Whether the kernel runs there with interrupts masked; None: not known."""
        return None

    def dead(self, cpu: Cpu) -> bool:
        """Whether it stands still, and nothing but a reset wakes it."""
        return False

    def at_reset(self, cpu: Cpu) -> bool:
        """Whether it is as a reset leaves it, before its first instruction."""
        return False

    def trap(self, cpu: Cpu, vector: int, error_code: int | None, walk: Walk) -> Trap | None:
        """The access that an exception of that vector is about, told by what the CPU reports and
        the walk of its address; None for an exception that is of no access."""
        return None

    def taken(
        self, cpu: Cpu, vector: int, walk: Callable[[int, int], Walk], read: ReadVirtual
    ) -> Taken:
        """The exception for which a CPU is in a `vector` of its `vector_table`, by what its
        registers report. Raises `ReadError`."""
        raise ReadError(f"{self.name} reports no exception in registers")

    def gates(self, cpu: Cpu, read: ReadVirtual) -> Mapping[int, Gate]:
        """Vector -> present gate. Raises `ReadError`."""
        return {}

    def tss(self, cpu: Cpu, read: ReadVirtual) -> Tss | None:
        """The stacks that the CPU switches to. Raises `ReadError`."""
        return None

    def disassemble(
        self, code: bytes, address: int, most: int = 0, *, skip_data: bool = False
    ) -> Iterator[Instruction]:
        """Instructions, at most so many (0: all), as far as the bytes are some; `skip_data`: what
        is none comes as ``.byte``."""
        return iter(())

    def core_notes(self, cpu: Cpu) -> tuple[Note, ...]:
        """The notes of an ELF core for one CPU: the general one, and QEMU's where it has one."""
        raise ReadError(f"no core is written of {self.name}")

    def cpus_of_notes(self, notes: Iterable[Note], *, long_mode: bool | None) -> tuple[Cpu, ...]:
        """The CPUs that a core's notes hold."""
        raise ReadError(f"no core is read of {self.name}")


class Instruction(NamedTuple):
    """One instruction, as the assembler takes it."""

    address: int
    size: int
    mnemonic: str
    operands: str

    @property
    def text(self) -> str:
        """The whole of it."""
        return f"{self.mnemonic} {self.operands}".strip()


_KNOWN: dict[str, Arch] = {}


def register(arch: Arch) -> Arch:
    """Enter an architecture, by its name."""
    _KNOWN[arch.name] = arch
    return arch


class Cpu(NamedTuple):
    """One vCPU. `registers` is by gdb's names (rax, rip, eflags, cs, fs_base, gs_base, k_gs_base,
    cr0, cr2, cr3, cr4, efer); a name that is absent was not to be had, and is never 0 for us.

    `long_mode` is what else than EFER.LMA tells of it (an ELF core of QEMU's has no EFER, but its
    machine is x86-64 only in long mode); None where nothing does. `phys_bits` is the width of
    physical addresses (CPUID 80000008H), None where it is not known. `code_64`: the code segment in
    CS has the L bit; without it long mode runs 32-bit code (compatibility mode, SDM vol. 3, 3.4.5).
    `arch_name` is the name of its architecture; what registers mean is asked of that (`arch`).
    """

    index: int  # type: ignore[assignment]  # hides the search of a tuple
    registers: Mapping[str, int]
    gdtr: DescriptorTable | None = None
    idtr: DescriptorTable | None = None
    tr: SystemSegment | None = None
    ldtr: SystemSegment | None = None
    halted: bool | None = None
    long_mode: bool | None = None
    phys_bits: int | None = None
    code_64: bool | None = None
    arch_name: str = FIRST

    @property
    def arch(self) -> Arch:
        """Its architecture."""
        return _KNOWN[self.arch_name]

    def __repr__(self) -> str:
        names = ("rip", "rsp", "cr3", "pc", "sp")
        told = (f"{n} {self.registers[n]:#x}" for n in names if n in self.registers)
        return f"<Cpu {self.index}: {', '.join(told) or 'no registers'}>"

    def get(self, name: str) -> int | None:
        """A register by gdb's name, None when not known."""
        return self.registers.get(name)

    @property
    def pc(self) -> VirtAddr:
        """The address of the next instruction. Raises `ReadError` when it is not known."""
        return VirtAddr(self._known(self.arch.names.pc))

    @property
    def sp(self) -> VirtAddr:
        """The stack pointer. Raises `ReadError` when it is not known."""
        return VirtAddr(self._known(self.arch.names.sp))

    @property
    def at(self) -> int | None:
        """The address of the next instruction, None when it is not known."""
        return self.registers.get(_KNOWN[self.arch_name].names.pc)

    @property
    def stack(self) -> int | None:
        """The stack pointer, None when it is not known."""
        return self.registers.get(_KNOWN[self.arch_name].names.sp)

    @property
    def rip(self) -> VirtAddr:
        """`pc`, by x86-64's name for it."""
        return self.pc

    @property
    def rsp(self) -> VirtAddr:
        """`sp`, by x86-64's name for it."""
        return self.sp

    def _known(self, name: str) -> int:
        value = self.registers.get(name)
        if value is None:
            raise ReadError(f"{name.upper()} of CPU {self.index} is not known")
        return value

    @property
    def cr3(self) -> int | None:
        """CR3 as it is, PCID or flag bits included; None when not known."""
        return self.get("cr3")

    @property
    def cpl(self) -> int | None:
        """See `Arch.ring`."""
        return _KNOWN[self.arch_name].ring(self)

    @property
    def privilege(self) -> str:
        """See `Arch.privilege`."""
        return _KNOWN[self.arch_name].privilege(self)

    @property
    def dead(self) -> bool:
        """See `Arch.dead`."""
        return _KNOWN[self.arch_name].dead(self)

    @property
    def at_reset(self) -> bool:
        """See `Arch.at_reset`."""
        return _KNOWN[self.arch_name].at_reset(self)

    @property
    def idt_never_loaded(self) -> bool:
        """Whether IDTR is as a reset or a loader leaves it: base 0, and the limit of a reset, of
        the real-mode table or none (SDM volume 3, table 10-1)."""
        table = self.idtr
        return table is not None and not table.base and table.limit in (0, 0x3FF, 0xFFFF, None)

    @property
    def root(self) -> PhysAddr | None:
        """See `Arch.root`."""
        return _KNOWN[self.arch_name].root(self)

    @property
    def paging(self) -> Mode | None:
        """See `Arch.mode`."""
        return _KNOWN[self.arch_name].mode(self)
