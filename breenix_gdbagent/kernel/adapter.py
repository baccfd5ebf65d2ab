"""`Adapter`: all that is known of one kernel. This base knows nothing, and is what another kernel
than those with an adapter has: ``none``.

What holds for any kernel (tables, descriptor tables, stacks by their mapping, what the CPU did) is
asked of the machine. What a kernel alone can tell (where it keeps its threads, what it mends and
goes on, which file to look at) is asked of its adapter, and of nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NoReturn

from breenix_gdbagent.errors import ReadError

if TYPE_CHECKING:
    from breenix_gdbagent.arch.cpu import Cpu
    from breenix_gdbagent.arch.machine import Machine
    from breenix_gdbagent.arch.tables import Tables
    from breenix_gdbagent.arch.walks import Walk
    from breenix_gdbagent.kernel.allocators import FrameAllocator, Heap
    from breenix_gdbagent.kernel.percpu import PerCpu
    from breenix_gdbagent.kernel.processes import ProcessTable
    from breenix_gdbagent.kernel.scheduler import Scheduler
    from breenix_gdbagent.kernel.serial_log import LogFacts
    from breenix_gdbagent.kernel.stacks import Era
    from breenix_gdbagent.stop import SerialText
    from breenix_gdbagent.symbols import Image, LoadedImage
    from breenix_gdbagent.symbols.values import Values

ReadVirtual = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Advice:
    """What is said of one finding code on this kernel: how it arose there, how to confirm and mend
    it, and the source files to see. What is None is as the code's declaration says it."""

    arises: str | None = None
    confirm: str | None = None
    mend: str | None = None
    see: tuple[str, ...] = ()


NOTHING = Advice()
NOWHERE = range(0)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a kernel keeps what, in virtual addresses; `NOWHERE` is what is not known.

    `ist_bottoms`: top of an IST stack -> its bottom, of those whose size no page table shows.
    `uses`: top-level slot -> what is kept there. `heap_slot` is the slot that the heap has for its
    own. `user_end` is the end of what programs may have, None where that is not known.
    """

    kernel_stacks: range = NOWHERE
    ist_stacks: range = NOWHERE
    ist_bottoms: Mapping[int, int] = field(default_factory=dict)
    heap: range = NOWHERE
    user_image: range = NOWHERE
    user_stacks: range = NOWHERE
    mmap: range = NOWHERE
    user_end: int | None = None
    uses: Mapping[int, str] = field(default_factory=dict)
    heap_slot: int | None = None


@dataclass(frozen=True, slots=True)
class Handled:
    """What the kernel does about it: a write to a page that is shared copy-on-write, or the growth
    of a user stack, `below` bytes under its mapped part."""

    how: Literal["copy-on-write", "growth"]
    below: int = 0


class Adapter:
    """What is known of one kernel; every answer of this base is "nothing". One instance serves all
    stops: it keeps nothing of any of them.

    `advice`: finding code -> what is said of it on this kernel. `handlers`: vector -> the symbol of
    its handler. `panic_functions` are where a panic begins. `layout` and `eras` say where things
    are; `has_percpu` whether a per-CPU block tells which tables are the kernel's own; `boot_slots`
    are top-level slots that a boot loader's tables have in common with those. `switch_function` is
    the only way into a switch of threads, where there is one. `success` and `progress` are texts on
    the serial line, `exit_success` and `exit_failed` statuses of QEMU, for machines whose own file
    says nothing of them.
    """

    name: str = "none"
    has_percpu = False
    advice: Mapping[str, Advice] = MappingProxyType({})
    handlers: Mapping[int, str] = MappingProxyType({})
    panic_functions: Sequence[str] = ("rust_begin_unwind",)
    layout: Layout = Layout()
    eras: Sequence[Era] = ()
    boot_slots: Sequence[int] = ()
    switch_function: str | None = None
    success: str | None = None
    progress: Sequence[str] = ()
    exit_success: frozenset[int] = frozenset()
    exit_failed: frozenset[int] = frozenset()

    def applies(self, machine: Machine | None, image: Image | None) -> bool:
        """Whether this is the kernel of the machine, by its ELF's names or by what is in memory
        (None: nothing has run yet). Never raises: what cannot be read is no sign."""
        return True

    def advice_for(self, code: str) -> Advice:
        """What is said of a finding code."""
        return self.advice.get(code, NOTHING)

    # What stands in memory -----------------------------------------------------------------

    def percpu(self, machine: Machine, cpu: Cpu) -> PerCpu | None:
        """The per-CPU block of `cpu`, None where there is none."""
        return None

    def log(self, serial: SerialText) -> LogFacts:
        """What the kernel's own text says of processes and panics."""
        from breenix_gdbagent.kernel.serial_log import LogFacts, panics

        return LogFacts(panics=panics(serial))

    def processes(self, values: Values) -> ProcessTable:
        """The process table. Raises `ReadError`, as the following do, where it cannot be read."""
        self._not_known("processes")

    def has_processes(self, values: Values) -> bool:
        """Whether the kernel has come to where it may make processes."""
        return True

    def scheduler(self, values: Values) -> Scheduler:
        """Threads, queues, and who runs."""
        self._not_known("threads")

    def frames(self, values: Values) -> FrameAllocator:
        """The frame allocator."""
        self._not_known("frame allocator")

    def heap(self, values: Values) -> Heap:
        """The kernel heap's own account."""
        self._not_known("heap")

    def stack_slots(self, values: Values) -> frozenset[int]:
        """Kernel-stack slots that are taken."""
        self._not_known("kernel stacks")

    def _not_known(self, what: str) -> NoReturn:
        raise ReadError(f"how this kernel keeps its {what} is not known: it has no adapter")

    # What it does --------------------------------------------------------------------------

    def gates(self, *, processes: bool) -> Sequence[int]:
        """Vectors whose gates it counts on; `processes`: once there are some."""
        return ()

    def grows_stacks(self, era: Era | None) -> bool:
        """Whether a fault just below a user stack makes it larger."""
        return False

    def handled(self, tables: Tables, way: Walk, error_code: int, *, grows: bool) -> Handled | None:
        """What the kernel does about a page fault by design, told by the walk of its address; None
        for a fault that is none of these. `grows` is the answer of `grows_stacks`."""
        return None

    def shared_on_purpose(self, leaf: int) -> bool:
        """Whether a leaf entry has a mark that its frame is shared with others on purpose."""
        return False

    def takes_frames_back(self, era: Era | None) -> bool:
        """Whether a frame that was given out may come to serve another."""
        return True

    def frames_returned(self, image: LoadedImage, read: ReadVirtual) -> bool | None:
        """Whether a frame ever came back, without any types; None where that is not told."""
        return None
