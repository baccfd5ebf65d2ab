"""A guest under run control, in Python.

>>> import breenix_gdbagent as ba
>>> with ba.launch(lab="guard-page", deterministic=True) as vm:
...     point = vm.checkpoint("syscall_entry", "rax", "process.name")
...     stop = vm.run_until("kernel::scenarios::probes::recurse")
...     stop.reason.kind, vm.value("SCHEDULER.current_thread")
...     stop = vm.run()
...     [finding.code.name for finding in ba.examine(stop).findings]
('breakpoint', 3)
['page-fault.guard-page']
>>> point.hits == len(point.records), point.records[0].text
(True, 'syscall_entry: rax = 0x27, process.name = "smoke_hello_time"')

A `Stop` is a value, but one of a live guest: it can be read until the guest runs on or is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from breenix_gdbagent import targets
from breenix_gdbagent.api import stops
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.checks.examine import CHECKS
from breenix_gdbagent.debugger.arbiter import PYTHON, Arbiter
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.points import Access, Kind, Only, Point
from breenix_gdbagent.debugger.stepping import Stepper
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.debugger.user_breakpoints import links_of
from breenix_gdbagent.debugger.watchpoints import watch_entry, watch_memory, watch_value
from breenix_gdbagent.errors import InputError, LinkError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import Expression, parse
from breenix_gdbagent.evaluation.places import Place, find_place, parse_vector, vector_place
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import SerialText, Stop
from breenix_gdbagent.symbols.backtrace import Backtrace
from breenix_gdbagent.targets import Machine, Setting

if TYPE_CHECKING:
    from breenix_gdbagent.api.examined import Examined
    from breenix_gdbagent.api.frames import Call
    from breenix_gdbagent.evaluation.known import Known


def launch(
    lab: str | None = None,
    *,
    stripped: bool = False,
    breenix: str | Path | None = None,
    image: str | Path | None = None,
    kernel: str | Path | None = None,
    disks: Sequence[str | Path] = (),
    config: str | None = None,
    arch: str | None = None,
    **settings: Setting,
) -> Vm:
    """Start a guest, which stands before its first instruction: a scenario of the lab guest, a
    built Breenix checkout, an `image` with the ELF of its `kernel`, or a `kernel` that the machine
    `config` boots by -kernel.

    `stripped` is the lab guest's ELF without DWARF, `arch` which of them; `config` is a machine's
    name or file, and `settings` override what it says (accel, memory, cpu, smp, deterministic).
    Raises `InputError`, `QemuError`.
    """
    if lab is not None:
        if breenix is not None or image is not None:
            raise InputError("two guests at once", fix="name one: lab, breenix or image")
        return Vm.of(
            targets.lab(
                lab,
                stripped=stripped,
                config=config,
                arch=arch,
                start=targets.plainly,
                **settings,
            )
        )
    if breenix is None and image is None and kernel is not None and config is not None:
        return Vm.of(
            targets.kernel(
                Path(kernel),
                config=config,
                disks=[Path(disk) for disk in disks],
                start=targets.plainly,
                **settings,
            )
        )
    if breenix is None and image is None and kernel is None:
        raise InputError(
            "no guest named", fix="name one: lab, breenix, image and kernel, or config and kernel"
        )
    return Vm.of(
        targets.breenix(
            _path(breenix),
            image=_path(image),
            kernel=_path(kernel),
            disks=[Path(disk) for disk in disks],
            config=config,
            start=targets.plainly,
            **settings,
        )
    )


def attach(
    gdb: str,
    *,
    qmp: str | Path | None = None,
    ram: str | Path | None = None,
    serial: str | None = None,
    kernel: str | Path | None = None,
    ram_size: str | None = None,
) -> Vm:
    """Take hold of a QEMU that runs, which stops it; closed, it goes on as it was found. Addresses
    are ``unix:PATH`` or ``HOST:PORT``. Raises `InputError`, `LinkError`.

    Given `qmp` and `ram`, everything is known; without them less is, and more slowly.
    """
    return Vm.of(
        targets.running(
            gdb, qmp=qmp, ram=_path(ram), serial=serial, kernel=_path(kernel), ram_size=ram_size
        )
    )


class Vm:
    """One guest. What runs it returns the `Stop` that it came to, whatever ended the run:
    ``stop.reason`` says what, `event` which points did and what they noted."""

    def __init__(self, arbiter: Arbiter, close: Callable[[], None] = lambda: None) -> None:
        self._arbiter = arbiter
        self._debugger = arbiter.debugger
        self._close = close
        self._closed = False
        self._kernel: Kernel | None = None
        self._examined: Examined | None = None
        self._epoch = -1
        self._steppers: dict[int, Stepper] = {}
        self.event: StopEvent | None = None

    @classmethod
    def of(cls, machine: Machine) -> Self:
        """A machine that has just been opened; faults are caught from here on."""
        try:
            debugger = Debugger(machine.vm, machine.image)
            debugger.start()
        except BaseException:
            machine.vm.close()
            raise
        return cls(Arbiter(debugger), machine.vm.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def close(self) -> None:
        """End a guest that was launched; leave another one as it was found. Twice does no harm."""
        self._closed = True
        self._close()

    # Where it stands --------------------------------------------------------------------------

    @property
    def stop(self) -> Stop:
        """The guest as it stands now. Raises `LinkError`, `QemuDied`."""
        return self.kernel.stop

    @property
    def kernel(self) -> Kernel:
        """The same as the kernel found in it: address spaces, processes, threads, stacks."""
        epoch = self._debugger.vm.epoch
        if self._kernel is None or self._epoch != epoch:
            with self._arbiter.while_stopped(wait=True):
                event = self.event or StopEvent(self._debugger.vm.found_at())
                self._kernel, self._epoch = Kernel(self._debugger.stop(event.reason)), epoch
        return self._kernel

    @property
    def serial(self) -> SerialText:
        """All that the guest wrote to its serial ports so far."""
        return self._debugger.vm.serial

    def read(self, va: int | str, length: int) -> bytes:
        """See `stops.read`."""
        return stops.read(self.kernel, va, length)

    def value(self, text: str) -> Known:
        """See `stops.value`."""
        return stops.value(self.kernel, text)

    def walk(self, va: int | str, root: int | None = None) -> Walk:
        """See `stops.walk`."""
        return stops.walk(self.kernel, va, root)

    def backtrace(self, cpu: int | None = None) -> Backtrace:
        """See `stops.backtrace`."""
        return stops.backtrace(self.kernel, cpu)

    def frames(self, cpu: int | None = None) -> list[Call]:
        """See `stops.frames`.

        >>> import breenix_gdbagent as ba
        >>> with ba.launch(lab="clean") as vm:
        ...     stop = vm.run_until("kernel::interrupts::handlers::syscall")
        ...     frame = vm.frames()[0].args["frame"]
        ...     frame.registers.rax.integer() == vm.value("frame.registers.rax")
        ...     next = vm.nexti()
        ...     stop.stale, next.stale
        True
        (True, False)
        """
        return stops.frames(self.kernel, cpu)

    def examine(self) -> Examined:
        """See `stops.examine`."""
        seen = self._examined
        if seen is None or seen.kernel is not self.kernel:
            self._examined = seen = stops.examine(self.kernel)
        return seen

    def save(self, path: str | Path, memory: str = "kernel") -> Path:
        """See `stops.save`."""
        return stops.save(self.kernel, path, memory)

    # Running ----------------------------------------------------------------------------------

    def run(self, text: str | None = None, seconds: float | None = None) -> Stop:
        """Run to a fault, a point, the end, or until serial text matches the regular expression
        `text` (``stop.reason.kind`` is ``marker``) or `seconds` are over (``deadline``).

        >>> import breenix_gdbagent as ba
        >>> with ba.launch(lab="clean") as vm:
        ...     vm.run(text="Memory management initialized").reason.kind
        ...     vm.run(seconds=0.2).reason.kind in ("deadline", "exit")
        'marker'
        True
        """
        patterns = [] if text is None else [text]
        return self._run(lambda: self._debugger.go(patterns, seconds))

    def run_until(
        self,
        location: str | int,
        *,
        condition: str | None = None,
        process: str | int | None = None,
        cpu: int | None = None,
        seconds: float | None = None,
    ) -> Stop:
        """Run to a location (as `breakpoint` takes it) where the rest holds. Something else may
        stop the guest before: ``stop.reason`` says so.

        >>> import breenix_gdbagent as ba
        >>> with ba.launch(lab="clean") as vm:
        ...     stop = vm.run_until("syscall_entry", process="clock_gettime_test")
        ...     vm.value("pid"), vm.kernel.symbol(stop.cpu.rip)
        (2, 'syscall_entry')
        """
        point = self.breakpoint(location, condition=condition, process=process, cpu=cpu)
        try:
            return self._run(lambda: self._debugger.go((), seconds))
        finally:
            if not self._debugger.vm.exited:
                self.delete(point)

    def interrupt(self) -> bool:
        """From another thread: end the run that goes on, whose `Stop` says ``interrupt``. False
        when the guest is stopped."""
        return self._arbiter.interrupt()

    def step(self, cpu: int | None = None) -> Stop:
        """To another source line, into calls."""
        stepper = self._stepper(cpu)
        return self._run(lambda: stepper.line(over=False))

    def next(self, cpu: int | None = None) -> Stop:
        """To another source line, over calls."""
        stepper = self._stepper(cpu)
        return self._run(lambda: stepper.line(over=True))

    def stepi(self, count: int = 1, cpu: int | None = None) -> Stop:
        """`count` instructions.

        >>> import breenix_gdbagent as ba
        >>> with ba.launch(lab="clean") as vm:
        ...     before = vm.run_until("syscall_entry").cpu
        ...     after = vm.stepi().cpu
        >>> after.rip - before.rip, after.rsp - before.rsp  # push 0
        (2, -8)
        """
        stepper = self._stepper(cpu)
        return self._run(lambda: stepper.instruction(count))

    def nexti(self, count: int = 1, cpu: int | None = None) -> Stop:
        """`count` instructions, over calls."""
        stepper = self._stepper(cpu)
        return self._run(lambda: stepper.instruction(count, over=True))

    def until(self, location: str | int | None = None, cpu: int | None = None) -> Stop:
        """To a line further down, or to a location in this frame; or to where the frame returns.
        Raises `InputError`, `SymbolNotFound`."""
        stepper = self._stepper(cpu)
        if location is None:
            return self._run(stepper.until)
        addresses = self._debugger.table.addresses(self._place(location))
        kernel = self.kernel
        return self._run(lambda: stepper.to(addresses, kernel))

    def finish(self, cpu: int | None = None) -> Stop:
        """Until the function has returned; ``vm.event.returned`` is RAX then. Raises `ReadError`
        where no caller is known."""
        stepper, kernel = self._stepper(cpu), self.kernel
        return self._run(lambda: stepper.finish(kernel))

    def send(self, text: str, port: int = 0) -> None:
        """Type into a serial port; a line ends with ``\\n``. Raises `LinkError`."""
        self._debugger.vm.console.send(text.encode(), port)

    # Points -----------------------------------------------------------------------------------

    @property
    def points(self) -> tuple[Point, ...]:
        """Every point, with its hits so far."""
        return tuple(p for p in self._debugger.table if p.number > 0)

    def breakpoint(
        self,
        location: str | int,
        *,
        condition: str | None = None,
        process: str | int | None = None,
        cpu: int | None = None,
        count: int = 1,
        once: bool = False,
    ) -> Point:
        """Stop at an address, ``symbol+offset``, ``file.rs:12`` or ``exception 14``, at the
        `count`-th time that CR3 is the `process`'s (pid or name) and `condition` holds. With
        `once` it goes with its first stop. Raises `InputError`, `SymbolNotFound`."""
        links = links_of(self._place(location), self._debugger.loaded_or_linked)
        only = self._only(condition, process, cpu, links)
        return self._add("break", location, only, ignore=count - 1, once=once)

    def checkpoint(
        self, location: str | int, *expressions: str, condition: str | None = None
    ) -> Point:
        """Take down expressions there and go on: ``point.hits``, ``point.records``."""
        image = self._debugger.loaded_or_linked
        links = links_of(self._place(location), image)
        parsed = tuple(parse(text, image, links) for text in expressions)
        only = self._only(condition, links=links)
        return self._add("checkpoint", location, only, expressions=parsed)

    def invariant(self, check: str, location: str | int) -> Point:
        """Run a check of `examine` (or ``audit``: all) there, and stop where it fails."""
        known = [name for name, _ in CHECKS]
        if check not in (*known, "audit"):
            raise InputError(f"{check!r} is no check", f"checks: {', '.join(known)}, audit")
        return self._add("invariant", location, Only(), check=check)

    def watch(
        self,
        what: str | int,
        length: int = 8,
        *,
        access: Access = "write",
        condition: str | None = None,
    ) -> Point:
        """Stop where a value is written and changes (or is read: `access`): a static or a field of
        one, or `length` bytes at an address. Raises `InputError`, `ReadError`.

        >>> import breenix_gdbagent as ba
        >>> with ba.launch(lab="clean", deterministic=True) as vm:
        ...     stop = vm.run_until("syscall_entry")
        ...     point = vm.watch("SCHEDULER.current_thread")
        ...     vm.run().reason.kind, vm.event.points == (point,), vm.event.notes
        ('breakpoint', True, ('SCHEDULER.current_thread was Some(2), is Some(3)',))
        """
        self._check()
        with self._arbiter.while_stopped(wait=True):
            if isinstance(what, int):
                point = watch_memory(self._debugger, self.kernel, what, length, access, condition)
            else:
                point = watch_value(self._debugger, self.kernel, what, access, condition)
            point.quiet = True
            return point

    def watch_entry(self, va: int | str, process: str | int | None = None) -> Point:
        """Stop at the instruction that changes the page-table entries, of any level, which map
        `va` in a process (pid or name; else where the CPU is). Raises `InputError`, `ReadError`."""
        self._check()
        with self._arbiter.while_stopped(wait=True):
            at = stops.address(self.kernel, va)
            named = None if process is None else str(process)
            watch = watch_entry(self._debugger, self.kernel, at, named)
            watch.point.quiet = True
            return watch.point

    def delete(self, point: Point) -> None:
        """Take a point out."""
        with self._arbiter.while_stopped(wait=True):
            self._debugger.remove(point)

    # Inside -----------------------------------------------------------------------------------

    def _run(self, job: Callable[[], StopEvent]) -> Stop:
        self._check()
        self.event = self._arbiter.run(PYTHON, job)
        return self.stop

    def _check(self) -> None:
        if self._closed:
            raise LinkError("this guest was let go", fix="launch or attach again")

    def _stepper(self, cpu: int | None) -> Stepper:
        chosen = self.stop.reason.cpu if cpu is None else cpu
        return self._steppers.setdefault(chosen, Stepper(self._debugger, chosen))

    def _only(
        self,
        condition: str | None,
        process: str | int | None = None,
        cpu: int | None = None,
        links: tuple[int, ...] = (),
    ) -> Only:
        image = self._debugger.loaded_or_linked
        parsed = None if condition is None else parse(condition, image, links)
        return Only(None if process is None else str(process), cpu, parsed)

    def _place(self, location: str | int) -> Place:
        text = hex(location) if isinstance(location, int) else location.strip()
        word, _, vector = text.partition(" ")
        if word == "exception":
            return vector_place(parse_vector(vector.strip()))
        return find_place(text, self._debugger.image, self._evaluation())

    def _evaluation(self) -> Evaluation | None:
        """Where the guest stands, for a location that is an expression; None before it has run."""
        return None if self._kernel is None else Evaluation.of(self.kernel)

    def _add(
        self,
        kind: Kind,
        location: str | int,
        only: Only,
        *,
        ignore: int = 0,
        once: bool = False,
        expressions: tuple[Expression, ...] = (),
        check: str = "",
    ) -> Point:
        self._check()
        with self._arbiter.while_stopped(wait=True):
            place = self._place(location)
            number = self._debugger.table.number()
            point = Point(
                number, kind, place, only, ignore, once,
                expressions=expressions, check=check, quiet=True,
            )  # fmt: skip
            return self._debugger.add(point)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
