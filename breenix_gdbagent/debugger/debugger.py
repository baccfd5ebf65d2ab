"""Run control of one guest: everything that lets it run does so by this object.

Points are put in, runs go from stop to stop, and each stop that lasts is read once. What else there
is (a guarded run, the step commands, the bridge for gdb) is policy over it. Nothing writes to the
guest; what the user has written into it is in `written`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.debugger.benign import BenignFaults
from breenix_gdbagent.debugger.hits import Hits
from breenix_gdbagent.debugger.interrupt_check import InterruptCheck
from breenix_gdbagent.debugger.point_table import PointTable
from breenix_gdbagent.debugger.points import Only, Point
from breenix_gdbagent.debugger.stop_event import Say, StopEvent
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.places import Place
from breenix_gdbagent.kernel.adapters import adapter_of
from breenix_gdbagent.kernel.image import with_image
from breenix_gdbagent.kernel.reason import panic_entries
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.live.fault import Fault, Hit
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.symbols import Image, LoadedImage

Catching = Literal["unexpected", "all", "none"]


class Debugger:
    """One guest under run control. `say` is told, line by line, what goes on without a stop.

    `passes_fault` is the policy for faults: it is asked of each one at which no point stops the
    guest, with the points that are there, and says whether to go on. By itself it is
    `passes_by_rule`, which `catching` sets: ``unexpected`` passes what the kernel lives on by
    design (copy-on-write, stack growth).
    """

    def __init__(
        self, vm: LiveVm, image: Image | None = None, say: Say = lambda line: None
    ) -> None:
        self.vm = vm
        self.image = image
        self.table = PointTable(vm, image)
        self.say = say
        self.hits = Hits(vm, self.table, self.placed, lambda line: self.say(line))
        self.catching: Catching = "unexpected"
        self.benign = 0
        self.limit: float | None = None  # seconds of a run that nobody has set a limit to
        self.written: list[str] = []  # what was written into the guest
        self.benign_faults = BenignFaults(image, vm.adapter)
        self.passes_fault: Callable[[Fault, Sequence[Point]], bool] = self.passes_by_rule
        self.interrupts: InterruptCheck | None = None
        self._stop: Stop | None = None
        self._moment = (-1, False)
        vm.when_armed = self._place

    # Stops ---------------------------------------------------------------------------------

    def start(self, passing: Collection[int] = (), bias: int | None = None) -> None:
        """Catch faults, those of the vectors `passing` apart: before a launched guest's first
        instruction, or now in a running one; in one whose load `bias` is known, now."""
        adapter = adapter_of(None, self.image, self.vm.adapter)
        panics = () if self.image is None else panic_entries(self.image, adapter)
        if bias is not None:
            self.table.base = bias
        elif self.image is not None and self.vm.config is None:
            found = with_image(self.vm.stop(), self.image)[1]
            bias = found.value if found is not None else None
        kernel = self.image.path if self.image is not None else None
        self.vm.arm(kernel, panic=panics, bias=bias, passing=passing)

    def check_interrupts(self) -> None:
        """Compare, from now on, the registers that threads get back with those they had."""
        self.interrupts = InterruptCheck(self.vm, self.image)

    def placed(self, stop: Stop) -> Stop:
        """The stop with the kernel's ELF at its place."""
        if self.image is None or stop.image is not None:
            return stop
        loaded = self.loaded
        if loaded is not None:
            return stop._replace(image=loaded, unplaced=None)
        return with_image(stop, self.image)[0]

    def stop(self, reason: StopReason) -> Stop:
        """The guest as it stands now, stopped for `reason`; read once, however often it is asked
        for before the guest moves. Raises `LinkError`, `QemuDied`."""
        moment = self.vm.epoch, self.vm.exited
        if self._stop is None or moment != self._moment:
            self._stop, self._moment = self._made(reason), moment
        return self._stop if self._stop.reason == reason else self._stop._replace(reason=reason)

    def _made(self, reason: StopReason) -> Stop:
        stop = self.vm.stop(reason)
        rip = stop.cpu.at
        if rip is not None:
            self.table.learn(rip, ())
        stop = self.placed(stop)
        self.hits.cpus = max(self.hits.cpus, len(stop.cpus))
        if stop.image is not None:
            self.table.base = stop.image.bias
        if not self.vm.exited:
            self._place()
        return stop

    def _place(self) -> None:
        """Put in what was not known a place for before, where there is one now."""
        self.table.place_all()
        if self.interrupts is not None:
            self.interrupts.place(self.loaded)
        if self.hits.unplaced and self.loaded is not None:
            reason = StopReason("attached", self.vm.stopped_cpu)
            self.hits.place_waiting(self.hits.evaluation(reason, self.vm.registers))

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
            self.hits.entries.pop(point.number, None)
            self.hits.unplaced.pop(point.number, None)
        self.table.remove(*points)

    @contextmanager
    def passage(
        self, addresses: Sequence[int], accept: Callable[[Evaluation], bool]
    ) -> Iterator[Point]:
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

    def go(self, patterns: Sequence[str] = (), seconds: float | None = None) -> StopEvent:
        """Run until something stops the guest: a point, a fault, serial text that matches one of
        `patterns`, `seconds`, or an interrupt. Raises `LinkError`, `QemuDied`, `InputError`."""
        self.begin()
        return self.go_on(patterns, seconds)

    def begin(self) -> None:
        """A command of the user's begins: what stopped the last one is forgotten."""
        self.hits.begin()

    def go_on(self, patterns: Sequence[str] = (), seconds: float | None = None) -> StopEvent:
        """`go`, as a part of a command that has begun."""
        limit = self.limit if seconds is None else seconds
        return self.stopped(self.vm.run(patterns, limit, self._on_fault, self._on_hit))

    def step_on(self, cpu: int) -> StopEvent | None:
        """One instruction of one CPU, as a part of a command that has begun: None when nothing
        stops the command there. Points where it comes to are hit, as in gdb
        (gdb/infrun.c, handle_signal_stop: a thread that steps onto a breakpoint has hit it)."""
        reason = self.vm.step(cpu)
        if reason.kind == "step":
            return None
        registers = self.vm.registers_of(reason.cpu)
        if reason.kind == "fault" and self._on_fault(Fault(self.vm, reason, registers)):
            return None
        hit = Hit(self.vm, reason, registers, self.vm.watched)
        if reason.kind == "breakpoint" and self._on_hit(hit):
            return None
        return self.stopped(reason)

    def stopped(self, reason: StopReason) -> StopEvent:
        """What a command comes to that ends for `reason`."""
        stopping = tuple(p for p in self.hits.stopping if p.number > 0)
        self.hits.ended(reason)
        gone = [p for p in stopping if p.once]
        if gone and not self.vm.exited:
            self.remove(*gone)
        return StopEvent(reason, stopping, tuple(self.hits.notes))

    # On the way ----------------------------------------------------------------------------

    def _on_hit(self, hit: Hit) -> bool:
        return self.hits.passes(hit)

    def _on_fault(self, fault: Fault) -> bool:
        """Whether to pass a fault. A point on its handler or vector decides before the policy."""
        points = self.table.at(fault.registers.get(self.vm.arch.names.pc, 0))
        if points and self.hits.stops(points, self.hits.evaluation(fault.reason, fault.registers)):
            return False
        return self.passes_fault(fault, points)

    def passes_by_rule(self, fault: Fault, points: Sequence[Point]) -> bool:
        """`catching`, of faults that no point of the user's is for."""
        if self.catching == "none" or any(p.kind != "passage" for p in points):
            return True
        if self.catching == "unexpected" and self.benign_faults.known(fault):
            self.benign += 1
            return True
        return False
