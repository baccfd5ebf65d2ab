"""What an expression is evaluated on: the registers of a stopped CPU, and its kernel when asked
for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.arch.cpu import Cpu, VirtualReader
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.kernel.percpu import PerCpu
from breenix_gdbagent.kernel.processes import MANAGER
from breenix_gdbagent.kernel.typed import number, static_of
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.symbols.backtrace import Frame, registers_of
from breenix_gdbagent.symbols.values import Value
from breenix_gdbagent.x86.control import CR3_ADDRESS

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.known import Known
    from breenix_gdbagent.symbols.values import Values
    from breenix_gdbagent.symbols.variables import Scope, Variable

"""Those of which each frame has its own."""
THREAD = "kernel::task::thread::Thread"


class Evaluation:
    """One CPU at one moment. `kernel()` is made once, and only when somebody needs it. `frame` is
    the frame whose registers and variables are meant, None: where the CPU stands; `depth` counts
    the calls inlined in it that lie further in. `kept` are values by name (``$1``), `root` is
    whose memory is meant, None: that of the CPU's CR3."""

    def __init__(
        self,
        cpu: Cpu,
        kernel: Callable[[], Kernel],
        frame: Frame | None = None,
        depth: int = 0,
        kept: Mapping[str, Known] | None = None,
        root: int | None = None,
    ) -> None:
        self.cpu = cpu
        self._make = kernel
        self.frame = frame
        self.depth = depth
        self.kept: Mapping[str, Known] = kept or {}
        self.root = root

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        cpu: Cpu | None = None,
        frame: Frame | None = None,
        depth: int = 0,
        *,
        kept: Mapping[str, Known] | None = None,
        root: int | None = None,
    ) -> Evaluation:
        """The CPU that a stop is about, or another one of it, or one of its frames."""
        chosen = kernel.stop.cpu if cpu is None else cpu
        return cls(chosen, lambda: kernel, frame, depth, kept, root)

    def register(self, name: str) -> int:
        """A register, in the frame at hand. Raises `ReadError` where it is not known."""
        if self.frame is not None and name in self.cpu.arch.names.unwind:
            value = registers_of(self.frame).get(name)
            if value is None:
                raise ReadError(
                    f"{name} is not known in this frame: what it called did not keep it"
                )
            return value
        value = self.cpu.get(name)
        if value is None:
            raise ReadError(f"register {name} is not known")
        return value

    @cached_property
    def values(self) -> Values:
        """Rust values in the address space under the CPU's CR3. Raises `ReadError` without types.
        """
        from breenix_gdbagent.symbols.values import Values

        return Values(self.kernel.structures.values.image, self.memory.read)

    @cached_property
    def scopes(self) -> tuple[Scope, ...]:
        """The calls inlined where the frame stands, innermost first, and its function, with their
        variables; () where nothing is known of it."""
        from breenix_gdbagent.symbols.variables import scopes

        frame = self.frame
        image = self.kernel.stop.image
        if image is None or not image.image.has_dwarf:
            return ()
        if frame is None:
            rip, rsp = self.cpu.at, self.cpu.stack
            if rip is None or rsp is None or self.cpu.cpl:
                return ()
            frame = Frame(
                VirtAddr(rip), VirtAddr(rsp), "registers", None, True, self.cpu.registers,
                names=self.cpu.arch.names,
            )  # fmt: skip
        if not image.holds(frame.lookup) or frame.ring:
            return ()
        try:
            return scopes(self.values, frame)[self.depth :]
        except (ReadError, InputError):
            return ()

    def variable(self, name: str) -> Variable | None:
        """The argument or local of that name, of the frame's function or of what it was inlined
        into; None when there is none."""
        found = (scope.find(name) for scope in self.scopes)
        return next((variable for variable in found if variable is not None), None)

    @cached_property
    def kernel(self) -> Kernel:
        return self._make()

    @cached_property
    def memory(self) -> VirtualReader:
        """The address space under the CPU's CR3. Raises `ReadError` while paging is off."""
        root, mode = self.root or self.cpu.root, self.cpu.paging
        if root is None or mode is None:
            raise ReadError(self.kernel.stop.no_paging)
        return self.cpu.arch.paging.memory(self.kernel.tables, root, mode)

    @cached_property
    def percpu(self) -> PerCpu | None:
        """The per-CPU block of this CPU, None where it has none."""
        return self.kernel.adapter.percpu(self.kernel, self.cpu)

    @cached_property
    def thread(self) -> Value | None:
        """The thread that the per-CPU block names, None before there is one."""
        block = self.percpu
        if block is None or not block.current_thread:
            return None
        return self.kernel.structures.values.at(THREAD, block.current_thread)

    @cached_property
    def process(self) -> Value | None:
        """The process whose address space CR3 selects, else the one that owns the thread."""
        pid = self.pid
        if pid is None:
            return None
        manager = static_of(self.kernel.structures.values, MANAGER, "PROCESS_MANAGER").some()
        return None if manager is None else manager["processes"].item(pid)

    @cached_property
    def pid(self) -> int | None:
        """Its pid. By CR3 first: a switch changes the thread before the address space."""
        table = self.kernel.structures.processes
        root = self.root or self.cpu.root
        for process in table.processes:
            if root is not None and process.effective_root == root & CR3_ADDRESS:
                return process.pid
        thread = self.thread
        owner = None if thread is None else thread.field("owner_pid")
        if owner is not None and (inside := owner.some()) is not None:
            return inside.integer()
        found = None if thread is None else number(thread, "id")
        owning = None if found is None else table.by_thread(found)
        return None if owning is None else owning.pid


def of_cpu(stop: Stop, cpu: int) -> Stop:
    """The stop as seen from another CPU: no fault of its own, only where that CPU stands."""
    if cpu == stop.reason.cpu:
        return stop
    return stop._replace(reason=StopReason("attached", cpu, text=f"CPU {cpu} of the same stop"))
