"""Run control of one guest: points are put in, runs go from stop to stop, nothing is left behind.

A whole `Stop` is made only where the guest stays stopped. Nothing writes to the guest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.control.benign import BenignFaults
from breenix_gdbagent.control.halt import Halt, Say
from breenix_gdbagent.control.judge import Judge
from breenix_gdbagent.control.places import Place
from breenix_gdbagent.control.points import Only, Point
from breenix_gdbagent.control.scene import Scene
from breenix_gdbagent.control.table import PointTable
from breenix_gdbagent.kernel.image import with_image
from breenix_gdbagent.kernel.reason import PANIC_SYMBOL
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.live.fault import Fault
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.symbols import Image, LoadedImage

Catching = Literal["unexpected", "all", "none"]


class Debugger:
    """One guest under run control. `say` is told, line by line, what goes on without a stop.

    `catching`: faults that stop it, of those that no point of the user's is for. ``unexpected``
    passes what the kernel lives on by design (copy-on-write, stack growth).
    """

    def __init__(
        self, vm: LiveVm, image: Image | None = None, say: Say = lambda line: None
    ) -> None:
        self.vm = vm
        self.image = image
        self.table = PointTable(vm, image)
        self.judge = Judge(vm, self.table, self.placed, say)
        self.catching: Catching = "unexpected"
        self.benign = 0
        self._faults = BenignFaults()
        vm.when_armed = self.table.place_all

    # Stops ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Catch faults: before a launched guest's first instruction, or now in a running one."""
        panics = self.image.addresses_of(PANIC_SYMBOL) if self.image is not None else ()
        bias = None
        if self.image is not None and self.vm.config is None:
            found = with_image(self.vm.stop(), self.image)[1]
            bias = found.value if found is not None else None
        self.vm.arm(self.image.path if self.image is not None else None, panic=panics, bias=bias)

    def placed(self, stop: Stop) -> Stop:
        """The stop with the kernel's ELF at its place."""
        if self.image is None or stop.image is not None:
            return stop
        loaded = self.loaded
        if loaded is not None:
            return stop._replace(image=loaded, unplaced=None)
        return with_image(stop, self.image)[0]

    def stop(self, halt: Halt) -> Stop:
        """The whole stop. Raises `LinkError`, `QemuDied`."""
        stop = self.vm.stop(halt.reason)
        rip = stop.cpu.get("rip")
        if rip is not None:
            self.table.learn(rip, ())
        stop = self.placed(stop)
        self.judge.cpus = max(self.judge.cpus, len(stop.cpus))
        if stop.image is not None:
            self.table.base = stop.image.bias
        if not self.vm.exited:
            self.table.place_all()
        return stop

    @property
    def loaded(self) -> LoadedImage | None:
        """The kernel's ELF where it runs, None while that is not known."""
        base = self.table.base
        return None if self.image is None or base is None else self.image.loaded(base)

    @property
    def loaded_or_linked(self) -> LoadedImage | None:
        """The ELF to look names up in, wherever it runs."""
        return self.loaded or (None if self.image is None else self.image.loaded(0))

    def describe(self, va: int) -> str:
        """Address and symbol, where the load bias is known."""
        image = self.loaded
        name = None if image is None else image.name_of(va)
        return f"{hex64(va)} <{name}>" if name else hex64(va)

    def reset(self) -> None:
        """The machine as after power-on; every point stands again, where it will be known."""
        self.vm.reset()
        self.table.forget()
        self.begin()

    # Points --------------------------------------------------------------------------------

    def add(self, point: Point) -> Point:
        """Put a point in. One at the very place where the guest stands is hit the next time."""
        return self.table.add(point)

    def remove(self, *points: Point) -> None:
        """Take points out."""
        for point in points:
            self.judge.entries.pop(point.number, None)
        self.table.remove(*points)

    @contextmanager
    def passage(self, addresses: Sequence[int], accept: Callable[[Scene], bool]) -> Iterator[Point]:
        """A breakpoint of our own for one run: where it is hit and `accept` agrees, we stop."""
        place = Place(hex64(addresses[0]), fixed=tuple(addresses))
        point = Point(self.table.passage(), "passage", place, Only(), accept=accept)
        self.add(point)
        try:
            yield point
        finally:
            if not self.vm.exited:
                self.remove(point)

    # Runs ----------------------------------------------------------------------------------

    def go(self, patterns: Sequence[str] = (), seconds: float | None = None) -> Halt:
        """Run until something stops the guest: a point, a fault, serial text that matches one of
        `patterns`, `seconds`, or an interrupt. Raises `LinkError`, `QemuDied`, `InputError`."""
        self.begin()
        return self.go_on(patterns, seconds)

    def begin(self) -> None:
        """A command of the user's begins: what stopped the last one is forgotten."""
        self.judge.begin()

    def go_on(self, patterns: Sequence[str] = (), seconds: float | None = None) -> Halt:
        """`go`, as a part of a command that has begun."""
        return self.halted(self.vm.run(patterns, seconds, self._on_fault, self.judge.passes))

    def halted(self, reason: StopReason) -> Halt:
        """What a command comes to that ends for `reason`."""
        stopping = tuple(p for p in self.judge.stopping if p.number > 0)
        self.judge.ended(reason)
        gone = [p for p in stopping if p.once]
        if gone and not self.vm.exited:
            self.remove(*gone)
        return Halt(reason, stopping, tuple(self.judge.notes))

    # Hits ----------------------------------------------------------------------------------

    def _on_fault(self, fault: Fault) -> bool:
        """Whether to pass a fault. A point on its handler or vector decides before the rule."""
        points = self.table.at(fault.registers.get("rip", 0))
        if points and self.judge.stops(points, self.judge.scene(fault)):
            return False
        if self.catching == "none" or any(p.kind != "passage" for p in points):
            return True
        if self.catching == "unexpected" and self._faults.known(fault):
            self.benign += 1
            return True
        return False
