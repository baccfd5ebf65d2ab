"""What a hit of a point comes to: counted, printed, held against a check, or a stop.

A hit is judged from the registers of the CPU that stopped and from memory; a whole `Stop` is made
only where an invariant's check needs one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.examine import CHECKS
from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.control.entries import EntryWatch
from breenix_gdbagent.control.halt import Say
from breenix_gdbagent.control.points import Point, Recorded, admits
from breenix_gdbagent.control.scene import Scene
from breenix_gdbagent.control.table import PointTable
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.live.fault import Fault, Hit
from breenix_gdbagent.report.sentences import summary
from breenix_gdbagent.stop import Stop, StopReason

MOST_TOLD = 3


class Judge:
    """Judges the hits of one guest's points.

    `stopping` are the points that stop the guest now, `notes` what is to be said of it; `placed`
    puts the kernel's ELF into a stop. `say` is told, line by line, what goes on without a stop.
    """

    def __init__(
        self, vm: LiveVm, table: PointTable, placed: Callable[[Stop], Stop], say: Say
    ) -> None:
        self.vm = vm
        self.table = table
        self.placed = placed
        self.say = say
        self.cpus = vm.config.settings.smp if vm.config is not None else 1
        self.stopping: list[Point] = []
        self.notes: list[str] = []
        self.entries: dict[int, EntryWatch] = {}

    def begin(self) -> None:
        """What stopped the last run is forgotten, and page-table entries are looked at anew."""
        self.stopping, self.notes = [], []
        for watch in self.entries.values():
            self.notes += watch.arm(self.vm, self.table, self.placed)

    def scene(self, event: Fault | Hit) -> Scene:
        """Where the CPU of a fault or a hit stands."""
        return Scene.glance(self.vm, event.reason, event.registers, self.placed)

    def ended(self, reason: StopReason) -> None:
        """A run is over: what has changed of watched entries unseen."""
        if self.entries and not self.vm.exited:
            scene = Scene.glance(self.vm, reason, self.vm.registers, self.placed)
            for watch in self.entries.values():
                self.notes += watch.unseen(scene)

    def passes(self, hit: Hit) -> bool:
        """Whether a break- or watchpoint that was hit stops nothing."""
        if hit.watch is not None:
            address = hit.watch[1]
            stops = self.stops(self.table.watching(address), self.scene(hit))
            return not stops and not self.table.is_foreign(address)
        rip = hit.registers.get("rip", 0)
        points = self.table.at(rip)
        if points and not self.table.learn(rip, points):
            return True
        # Where no point of ours stands, the bridge's client has one, or nobody any more.
        stops = bool(points) and self.stops(points, self.scene(hit))
        return not stops and not self.table.is_foreign(rip, code=True)

    def stops(self, points: Sequence[Point], scene: Scene) -> bool:
        """Count the hit for each of the points; whether one of them stops the guest."""
        stops = False
        for point in points:
            said = len(self.notes)
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
                del self.notes[said:]
        return stops

    def _counts(self, point: Point, scene: Scene) -> bool:
        verdict = admits(point.only, scene)
        if verdict.trouble:
            (self.say if point.kind == "checkpoint" else self.notes.append)(verdict.trouble)
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
            notes = self.entries[point.number].look(scene, self.vm.watched)
            self.notes += notes
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
        """Run an invariant's checks on the whole stop; that a check cannot look is said, again
        when the reason is another one."""
        stop = self.placed(self.vm.stop(StopReason("breakpoint", scene.cpu.index)))
        kernel = Kernel(stop)
        broken: list[str] = []
        blind: list[str] = []
        for name, check in CHECKS:
            if point.check not in (name, "audit"):
                continue
            try:
                broken += [summary(f) for f in check(kernel) if f.weight == "error"]
            except (NotChecked, ReadError) as why:
                blind.append(f"{name} is not checked: {why}")
        told = "; ".join(blind)
        if told and told != point.value:
            self.say(f"{stop.seconds:9.3f}  {told}")
        point.value = told
        self.notes += [f"{point.check} is violated: {one}" for one in broken[:MOST_TOLD]]
        return bool(broken)

    def _changed(self, point: Point, scene: Scene) -> bool:
        """A watchpoint: of a written one only another value counts."""
        watched = point.watched[0]
        before, point.value = point.value, watched_value(point, scene)
        if watched.access == "write" and before == point.value:
            return False
        verb = "is" if before == point.value else f"was {before}, is"
        self.notes.append(f"{watched.name} {verb} {point.value}")
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
