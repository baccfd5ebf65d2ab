"""What a hit of a breakpoint, checkpoint or invariant does: count, print, run checks, or stop.

It is decided from the registers of the CPU that stopped and from memory; a whole `Stop` is made
only where an invariant's check needs one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.checks.examine import CHECKS
from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.debugger.entry_watch import EntryWatch
from breenix_gdbagent.debugger.point_table import PointTable
from breenix_gdbagent.debugger.points import Point, Recorded, admits
from breenix_gdbagent.debugger.stop_event import Say
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.live.fault import Hit
from breenix_gdbagent.live.frozen import FrozenMemory
from breenix_gdbagent.report.sentences import summary
from breenix_gdbagent.report.wording.reasons import reason_words
from breenix_gdbagent.stop import Stop, StopReason

MOST_TOLD = 3


class Hits:
    """The hits of one guest's points.

    `stopping` are the points that stop the guest now, `notes` what is to be said of it; `placed`
    puts the kernel's ELF into a stop. `unplaced` are watchpoints of values that the kernel has not
    made yet: what looks for the place of each, and says whether it has one now. `say` is told, line
    by line, what goes on without a stop.
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
        self.unplaced: dict[int, Callable[[Evaluation], bool]] = {}

    def begin(self) -> None:
        """What stopped the last run is forgotten, and page-table entries are looked at anew."""
        self.stopping, self.notes = [], []
        for watch in self.entries.values():
            self.notes += watch.arm(self.vm, self.table, self.placed)

    def evaluation(self, reason: StopReason, registers: Mapping[str, int]) -> Evaluation:
        """The CPU that has just stopped, without a question to QEMU: no other CPU, no descriptor
        registers, RAM where it was at the last full stop."""
        cpu, vm = Cpu(reason.cpu, registers, arch_name=self.vm.arch.name), self.vm

        def kernel() -> Kernel:
            memory = FrozenMemory(vm.recent_memory(), lambda: vm.epoch)
            stop = Stop((cpu,), memory, reason, vm.serial, None, vm.epoch, vm.clock.seconds())
            return Kernel(self.placed(stop))

        return Evaluation(cpu, kernel)

    def ended(self, reason: StopReason) -> None:
        """A run is over: equal hits that were not told, what has changed of watched entries
        unseen."""
        for point in self.table:
            self._folded(point)
        if self.entries and not self.vm.exited:
            evaluation = self.evaluation(reason, self.vm.registers)
            for watch in self.entries.values():
                self.notes += watch.unseen(evaluation)

    def passes(self, hit: Hit) -> bool:
        """Whether a break- or watchpoint that was hit stops nothing."""
        evaluation = self.evaluation(hit.reason, hit.registers)
        if hit.watch is not None:
            address = hit.watch[1]
            stops = self.stops(self.table.watching(address), evaluation)
            return not stops and not self.table.is_foreign(address)
        rip = hit.registers.get(self.vm.arch.names.pc, 0)
        points = self.table.at(rip)
        if points and not self.table.learn(rip, points):
            return True
        # Without a point of ours a gdb at the bridge has one there, or nobody any more.
        stops = bool(points) and self.stops(points, evaluation)
        return not stops and not self.table.is_foreign(rip, code=True)

    def stops(self, points: Sequence[Point], evaluation: Evaluation) -> bool:
        """Count the hit for each of the points; whether one of them stops the guest."""
        stops = False
        for point in points:
            said = len(self.notes)
            if point.accept is not None:
                wanted = point.accept(evaluation)
            else:
                # A watchpoint counts only what has changed.
                wanted = (
                    self._noticed(point, evaluation)
                    and self._counts(point, evaluation)
                    and self._acts(point, evaluation)
                )
            if wanted:
                self.stopping.append(point)
                stops = True
            else:
                del self.notes[said:]
        return stops

    def _counts(self, point: Point, evaluation: Evaluation) -> bool:
        verdict = admits(point.only, evaluation)
        if verdict.trouble:
            (self.say if point.kind == "checkpoint" else self.notes.append)(verdict.trouble)
        if not verdict.counts:
            point.refused += 1
            return False
        point.counted(self.vm.clock.seconds())
        if point.ignore > 0:
            point.ignore -= 1
            return False
        return True

    def _acts(self, point: Point, evaluation: Evaluation) -> bool:
        """What a point does at a hit that counts; whether the guest stays stopped."""
        if point.kind == "checkpoint":
            self._record(point, evaluation)
            return False
        if point.kind == "invariant":
            return self._violated(point, evaluation)
        return True

    def _noticed(self, point: Point, evaluation: Evaluation) -> bool:
        if point.kind == "watch":
            return self._changed(point, evaluation)
        if point.kind == "entry":
            notes = self.entries[point.number].look(evaluation, self.vm.watched)
            self.notes += notes
            return bool(notes)
        return True

    def _record(self, point: Point, evaluation: Evaluation) -> None:
        values = tuple(f"{e.text} = {e.shown(evaluation)}" for e in point.expressions)
        shown = ", ".join(values)
        seconds = self.vm.clock.seconds()
        text = f"{point.place.text}: {shown}" if shown else point.place.text
        point.records.append(Recorded(seconds, evaluation.cpu.index, text))
        if not point.quiet and (point.most is None or point.hits <= point.most):
            self._tell(point, evaluation.cpu.index, seconds, values)

    def _tell(self, point: Point, cpu: int, seconds: float, values: tuple[str, ...]) -> None:
        """Of a hit what has changed since the one before; equal ones are counted and told when
        another one comes, or the run ends."""
        before, point.shown = (point.shown if point.compact else ()), values
        if point.compact and point.hits > 1 and values == before:
            point.same += 1
        else:
            self._folded(point)
            changed = [v for n, v in enumerate(values) if n >= len(before) or v != before[n]]
            where = f"CPU {cpu}  " if self.cpus > 1 else ""
            told = f"{point.place.text}: {', '.join(changed)}" if changed else point.place.text
            self.say(f"{seconds:9.3f}  {where}{told}")
        if point.hits == point.most:
            self._folded(point)
            told = counted(point.hits, "hit")
            self.say(f"{'':9}  {point.place.text}: {told} told, more are counted")

    def _folded(self, point: Point) -> None:
        """What was not told of equal hits."""
        if point.same:
            self.say(f"{'':9}  {point.place.text}: {counted(point.same, 'more hit')}, the same")
            point.same = 0

    def _violated(self, point: Point, evaluation: Evaluation) -> bool:
        """Run an invariant's checks on the whole stop; that a check cannot look is said, again
        when the reason is another one."""
        stop = self.placed(self.vm.stop(StopReason("breakpoint", evaluation.cpu.index)))
        kernel = Kernel(stop)
        broken: list[str] = []
        blind: list[str] = []
        for name, check in CHECKS:
            if point.check not in (name, "audit"):
                continue
            try:
                broken += [summary(f) for f in check(kernel) if f.effective_severity == "error"]
            except NotChecked as unknown:
                blind.append(f"{name} is not checked: {reason_words(unknown.reason)}")
            except ReadError as unread:
                blind.append(f"{name} is not checked: {unread}")
        reasons = "; ".join(blind)
        if reasons and reasons != point.value:
            self.say(f"{stop.seconds:9.3f}  {reasons}")
        point.value = reasons
        self.notes += [f"{point.check} is violated: {one}" for one in broken[:MOST_TOLD]]
        return bool(broken)

    def place_waiting(self, evaluation: Evaluation) -> None:
        """Look again for the places of watchpoints that wait for theirs."""
        for number in list(self.unplaced):
            self._placed(number, evaluation)

    def _placed(self, number: int, evaluation: Evaluation) -> bool:
        """Whether a watchpoint has the place that it is for."""
        if number not in self.unplaced:
            return True
        try:
            if not self.unplaced[number](evaluation):
                return False
        except ReadError:
            return False
        except InputError as error:
            self.say(f"watchpoint {number}: {error.what}")
        del self.unplaced[number]
        return True

    def _changed(self, point: Point, evaluation: Evaluation) -> bool:
        """A watchpoint: of a written one only another value counts."""
        if not self._placed(point.number, evaluation):
            return False
        watched = point.watched[0]
        before, point.value = point.value, watched_value(point, evaluation)
        if watched.access == "write" and before == point.value:
            return False
        verb = "is" if before == point.value else f"was {before}, is"
        self.notes.append(f"{watched.name} {verb} {point.value}")
        return True


def watched_value(point: Point, evaluation: Evaluation) -> str:
    """What a watched range holds: by its type where it is a value of the kernel, else its bytes."""
    if point.expressions:
        return point.expressions[0].shown(evaluation)
    watched = point.watched[0]
    try:
        data = evaluation.memory.read(watched.address, min(watched.length, 16))
    except ReadError as error:
        return f"<{error.what}>"
    if len(data) in (1, 2, 4, 8):
        return hex64(int.from_bytes(data, "little"))
    return data.hex(" ")
