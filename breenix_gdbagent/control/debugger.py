"""Run control of one guest: points are put in, runs go from stop to stop, nothing is left behind.

A hit is judged from the registers of the CPU that stopped and from memory; a whole `Stop` is made
only where the guest stays stopped. Nothing writes to the guest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.examine import CHECKS
from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.control.benign import BenignFaults
from breenix_gdbagent.control.entries import EntryWatch
from breenix_gdbagent.control.halt import Halt, Say
from breenix_gdbagent.control.places import Place
from breenix_gdbagent.control.points import Only, Point, Recorded, admits
from breenix_gdbagent.control.scene import Scene
from breenix_gdbagent.control.table import PointTable
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.image import with_image
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live import Fault, Hit, LiveVm
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.symbols import Image, LoadedImage

Catching = Literal["unexpected", "all", "none"]
PANIC_SYMBOL = "rust_begin_unwind"


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
        self.say = say
        self.table = PointTable(vm, image)
        self.catching: Catching = "unexpected"
        self.benign = 0
        self.cpus = vm.config.settings.smp if vm.config is not None else 1
        self.entries: dict[int, EntryWatch] = {}
        self._faults = BenignFaults()
        self.stopping: list[Point] = []
        self._notes: list[str] = []
        self._base: int | None = None
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
            return replace(stop, image=loaded)
        return with_image(stop, self.image)[0]

    def stop(self, halt: Halt) -> Stop:
        """The whole stop. Raises `LinkError`, `QemuDied`."""
        stop = self.vm.stop(halt.reason)
        rip = stop.cpu.get("rip")
        if self.vm.bias is None and rip is not None:
            self._base = self.table.base_at(rip)
        stop = self.placed(stop)
        self.cpus = max(self.cpus, len(stop.cpus))
        if stop.image is not None and self.vm.bias is None:
            self._base = stop.image.bias
        self.table.place_all()
        return stop

    @property
    def loaded(self) -> LoadedImage | None:
        """The kernel's ELF where it runs, None while that is not known."""
        bias = self.vm.bias if self.vm.bias is not None else self._base
        return None if self.image is None or bias is None else self.image.loaded(bias)

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
        self._base = None
        self.table.forget()
        self.begin()

    # Points --------------------------------------------------------------------------------

    def add(self, point: Point) -> Point:
        """Put a point in. One at the very place where the guest stands is hit the next time."""
        self.table.add(point)
        if not self.vm.running and not self.vm.exited:
            rip = self.vm.registers.get("rip")
            if rip is not None and any(b.address == rip for b in point.breaks):
                self.vm.stand_on(rip)
        return point

    def remove(self, *points: Point) -> None:
        """Take points out."""
        for point in points:
            self.entries.pop(point.number, None)
        self.table.remove(*points)

    @contextmanager
    def passage(self, addresses: Sequence[int], accept: Callable[[Scene], bool]) -> Iterator[Point]:
        """A breakpoint of our own for one run: where it is hit and `accept` agrees, we stop."""
        place = Place(hex64(addresses[0]), fixed=tuple(addresses))
        point = Point(-self.table.number(), "passage", place, Only(), accept=accept)
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
        self.stopping, self._notes = [], []
        for watch in self.entries.values():
            self._notes += watch.arm(self)

    def go_on(self, patterns: Sequence[str] = (), seconds: float | None = None) -> Halt:
        """`go`, as a part of a command that has begun."""
        return self.halted(self.vm.run(patterns, seconds, self._on_fault, self._on_hit))

    def halted(self, reason: StopReason) -> Halt:
        """What a command comes to that ends for `reason`."""
        stopping = tuple(p for p in self.stopping if p.number > 0)
        if self.entries and not self.vm.exited:
            scene = Scene.glance(self.vm, reason, self.vm.registers, self.placed)
            for watch in self.entries.values():
                self._notes += watch.unseen(scene)
        gone = [p for p in stopping if p.once]
        if gone and not self.vm.exited:
            self.remove(*gone)
        return Halt(reason, stopping, tuple(self._notes))

    # Hits ----------------------------------------------------------------------------------

    def _scene(self, fault: Fault | Hit) -> Scene:
        return Scene.glance(self.vm, fault.reason, fault.registers, self.placed)

    def _on_fault(self, fault: Fault) -> bool:
        """Whether to pass a fault. A point on its handler or vector decides before the rule."""
        points = self.table.at(fault.registers.get("rip", 0))
        if points and self._judge(points, self._scene(fault)):
            return False
        if self.catching == "none" or any(p.kind != "passage" for p in points):
            return True
        if self.catching == "unexpected" and self._faults.known(fault):
            self.benign += 1
            return True
        return False

    def _on_hit(self, hit: Hit) -> bool:
        """Whether to pass a break- or watchpoint."""
        scene = self._scene(hit)
        if hit.watch is not None:
            kind, address = hit.watch
            stops = self._judge(self.table.watching(kind, address), scene)
            return not stops and not self.table.is_foreign(address)
        rip = hit.registers.get("rip", 0)
        points = self.table.at(rip)
        if points and self.vm.bias is None and all(p.place.links for p in points):
            self._base = self.table.base_at(rip)
            if self._base is None:
                self.table.refuse(rip)
                return True
        if not points:
            # The bridge's client has it, or nobody any more.
            return not self.table.is_foreign(rip, code=True)
        return not self._judge(points, scene) and not self.table.is_foreign(rip, code=True)

    def _judge(self, points: Sequence[Point], scene: Scene) -> bool:
        """Count the hit for each of the points; whether one of them stops the guest."""
        stops = False
        for point in points:
            said = len(self._notes)
            if point.accept is not None:
                wanted = point.accept(scene)
            else:
                # A watchpoint counts only what has changed.
                wanted = (
                    self._noticed(point, scene)
                    and self._counts(point, scene)
                    and self._acts(point, scene)
                )
            if wanted:
                self.stopping.append(point)
                stops = True
            else:
                del self._notes[said:]
        return stops

    def _counts(self, point: Point, scene: Scene) -> bool:
        verdict = admits(point.only, scene)
        if verdict.trouble:
            (self.say if point.kind == "checkpoint" else self._notes.append)(verdict.trouble)
        if not verdict.counts:
            return False
        point.counted(self.vm.clock.seconds())
        if point.ignore > 0:
            point.ignore -= 1
            return False
        return True

    def _acts(self, point: Point, scene: Scene) -> bool:
        """What a point does at a hit that counts; whether the guest stays stopped."""
        if point.kind == "checkpoint":
            self._record(point, scene)
            return False
        if point.kind == "invariant":
            return self._violated(point, scene)
        return True

    def _noticed(self, point: Point, scene: Scene) -> bool:
        if point.kind == "watch":
            return self._changed(point, scene)
        if point.kind == "entry":
            notes = self.entries[point.number].look(self, scene)
            self._notes += notes
            return bool(notes)
        return True

    def _record(self, point: Point, scene: Scene) -> None:
        shown = ", ".join(f"{e.text} = {e.shown(scene)}" for e in point.expressions)
        seconds = self.vm.clock.seconds()
        text = f"{point.place.text}: {shown}" if shown else point.place.text
        point.records.append(Recorded(seconds, scene.cpu.index, text))
        if not point.quiet:
            cpu = f"CPU {scene.cpu.index}  " if self.cpus > 1 else ""
            self.say(f"{seconds:9.3f}  {cpu}{text}")

    def _violated(self, point: Point, scene: Scene) -> bool:
        """Run an invariant's checks on the whole stop; a check that cannot look is said."""
        stop = self.placed(self.vm.stop(StopReason("breakpoint", scene.cpu.index)))
        kernel = Kernel(stop)
        broken: list[str] = []
        for name, check in CHECKS:
            if point.check not in (name, "audit"):
                continue
            try:
                broken += [f.summary for f in check(kernel) if f.weight == "error"]
            except (NotChecked, ReadError) as why:
                self.say(f"{stop.seconds:9.3f}  {name} is not checked: {why}")
        self._notes += [f"{point.check} is violated: {one}" for one in broken[:3]]
        return bool(broken)

    def _changed(self, point: Point, scene: Scene) -> bool:
        """A watchpoint: of a written one only another value counts."""
        watched = point.watched[0]
        before, point.value = point.value, watched_value(point, scene)
        if watched.access == "write" and before == point.value:
            return False
        verb = "is" if before == point.value else f"was {before}, is"
        self._notes.append(f"{watched.name} {verb} {point.value}")
        return True


def watched_value(point: Point, scene: Scene) -> str:
    """What a watched range holds: by its type where it is a value of the kernel, else its bytes."""
    if point.expressions:
        return point.expressions[0].shown(scene)
    watched = point.watched[0]
    try:
        data = scene.memory.read(watched.address, min(watched.length, 16))
    except ReadError as error:
        return f"<{error.what}>"
    if len(data) in (1, 2, 4, 8):
        return hex64(int.from_bytes(data, "little"))
    return data.hex(" ")
