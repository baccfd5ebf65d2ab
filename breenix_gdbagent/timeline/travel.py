"""Moving in a recording, both ways: to a moment, and backwards as a debugger goes forwards.

Backwards is forwards from an earlier snapshot, up to where one stands: the last stop on the way is
the one that is looked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.gdb_bridge import Backwards
from breenix_gdbagent.debugger.points import Point, Recorded
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import parse
from breenix_gdbagent.evaluation.source import Source
from breenix_gdbagent.kernel import trace
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.timeline.player import Moment, Player
from breenix_gdbagent.timeline.writers import writers
from breenix_gdbagent.views.moments import Write, Writers

AT_BEGIN = "the recording begins here"
FIRST_WINDOW, LAST_WINDOW = 256, 1 << 15
"""Instructions that are gone through one by one for a step back by line: so many, then more."""
_PHASES = 8


class Step(NamedTuple):
    """An instruction on the way: its count, RIP and RSP before it."""

    icount: int
    pc: int
    sp: int


class _Counted(NamedTuple):
    """What a point had counted before it was passed on the way back."""

    point: Point
    hits: int
    ignore: int
    records: deque[Recorded]


class Traveller:
    """One recording under run control. `position` is the instruction count where it stands."""

    def __init__(self, player: Player, debugger: Debugger) -> None:
        self.player = player
        self.debugger = debugger
        self.vm = player.vm
        self.bookmarks: dict[str, Moment] = {}
        self._written: dict[tuple[int, int], Writers] = {}

    @property
    def position(self) -> int:
        """The count of the instruction that is next. Raises `LinkError`."""
        return self.vm.icount()

    def moment(self, text: str) -> Moment:
        """A bookmark, or what `Player.moment` takes. Raises `InputError`."""
        return self.bookmarks[text] if text in self.bookmarks else self.player.moment(text)

    def mark(self, name: str) -> Moment:
        """Call this moment by a name. Raises `InputError` for one that is a moment already."""
        if not name or name == "end" or name[0].isdigit():
            raise InputError(f"{name!r} is no name for a moment", fix="begin it with a letter")
        self.bookmarks[name] = self.here
        return self.bookmarks[name]

    @property
    def here(self) -> Moment:
        """The moment at which it stands. Raises `LinkError`."""
        at_end = self.vm.at_end() and self.vm.pc() == self.player.manifest.end.rip
        return Moment(self.position, at_end)

    # To a moment -----------------------------------------------------------------------------

    def go_to(self, moment: Moment) -> StopEvent:
        """Stand there."""
        self.debugger.begin()
        if moment.at_end:
            return self.debugger.stopped(self.vm.seek_end())
        self.vm.seek(moment.icount)
        return self._arrived()

    def back(self, count: int) -> StopEvent:
        """`count` instructions back."""
        at = self.position - count
        if at < self.player.manifest.begin:
            return self.go_to(Moment(self.player.manifest.begin))
        return self.go_to(Moment(at))

    def _arrived(self, text: str = "") -> StopEvent:
        return self.debugger.stopped(StopReason("step", text=text))

    # Backwards -------------------------------------------------------------------------------

    def back_to_point(self) -> StopEvent:
        """To the last point or fault before this moment, or where the recording begins."""
        return self._back_to(lambda event: True)

    def back_out(self) -> StopEvent:
        """To the call of this function."""
        kernel = self._kernel()
        frames = trace.of_cpu(kernel, kernel.stop.cpu).frames
        image = kernel.stop.loaded
        symbol = frames[0].symbol if frames else None
        if len(frames) < 2 or symbol is None:
            raise ReadError("there is no caller that is known")
        start = image.va(image.link(frames[0].pc) - symbol.offset)
        wanted = frames[1].sp - 8
        if frames[0].pc == start:
            return self.back(1)

        def entered(evaluation: Evaluation) -> bool:
            return evaluation.cpu.stack == wanted

        with self.debugger.passage((start,), entered) as passage:
            event = self._back_to(lambda event: True)
            reached = passage in self.debugger.hits.stopping
        return self.back(1) if reached else event

    @property
    def backwards(self) -> Backwards:
        """What a user's own gdb asks of a recording."""
        return Backwards(
            lambda: self.back(1),
            self.back_to_point,
            lambda: self.position <= self.player.manifest.begin,
            lambda: self.here.at_end,
        )

    def _back_to(self, counts: Callable[[StopEvent], bool]) -> StopEvent:
        here = high = self.position
        begins = [way.icount for way in self.vm.ways if way.icount < here]
        for begin in reversed(begins):
            found = self._last_between(begin, high, counts)
            if found is not None:
                return found
            high = begin
        self.vm.seek(self.player.manifest.begin)
        return self.debugger.stopped(StopReason("interrupt", text=AT_BEGIN))

    def _last_between(
        self, low: int, high: int, counts: Callable[[StopEvent], bool]
    ) -> StopEvent | None:
        """The last stop before `high`, played from `low`; it stands there then. Raises
        `KeyboardInterrupt`."""
        found: tuple[int, int | None, StopEvent] | None = None
        stopping = list(self.debugger.hits.stopping)
        counted = [_Counted(p, p.hits, p.ignore, deque(p.records)) for p in self.debugger.table]
        self.vm.seek(low)
        # One more: a write by the instruction before this moment is told when it has been made.
        self.vm.limit = min(high + 1, self.player.manifest.end.icount)
        try:
            while True:
                event = self.debugger.go()
                at, rip = self.position, self.vm.pc()
                if event.reason.kind == "breakpoint" and self.vm.watched is not None:
                    at, rip = at - 1, None  # the instruction that has just written
                if event.reason.kind == "interrupt" or at >= high:
                    if event.reason.kind == "interrupt" and at < high:
                        raise KeyboardInterrupt
                    break
                if counts(event):
                    found = at, rip, event
                    stopping = list(self.debugger.hits.stopping)
        finally:
            self.vm.limit = None
            for one in counted:
                one.point.hits, one.point.ignore = one.hits, one.ignore
                one.point.records.clear()
                one.point.records.extend(one.records)
        if found is None:
            return None
        self._stand(found[0], found[1])
        self.debugger.hits.stopping = stopping
        return found[2]

    def _stand(self, icount: int, rip: int | None) -> None:
        """At that count, and at the moment of it at which RIP is that (None: before it): an
        exception that has been delivered there is no instruction of its own."""
        self.vm.seek(icount)
        if rip is None:
            return
        with self.vm.ledger.nothing_wanted():
            for _ in range(_PHASES):
                if self.vm.pc() == rip or self.position > icount:
                    return
                self.vm.step()

    def back_line(self, *, over: bool) -> StopEvent:
        """To the beginning of the line that ran before this one; `over`: not into what it called.
        Raises `ReadError` where no line is known within `LAST_WINDOW` instructions."""
        image = self._kernel().stop.loaded
        source = Source(image)
        here, sp = self.position, self.vm.registers.get(self.vm.arch.names.sp, 0)
        window = FIRST_WINDOW
        while window <= LAST_WINDOW:
            low = max(self.player.manifest.begin, here - window)
            steps = [s for s in self._steps(low, here) if not over or s.sp >= sp]
            found = _line_before(steps, source, self.vm.pc() or 0)
            if found is not None:
                return self.go_to(Moment(found))
            if low == self.player.manifest.begin:
                break
            window *= 8
        raise ReadError(
            f"no other line of the kernel ran in the last {window // 8:,} instructions",
            fix="reverse-stepi, or goto",
        )

    def _steps(self, low: int, high: int) -> list[Step]:
        """Each instruction from one count to another, and there it stands again."""
        out: list[Step] = []
        self.vm.seek(low)
        with self.vm.ledger.nothing_wanted():
            at = low
            while at < high:
                registers, names = self.vm.registers, self.vm.arch.names
                out.append(Step(at, registers.get(names.pc, 0), registers.get(names.sp, 0)))
                self.vm.step()
                at = self.position
        self.vm.seek(high)
        return out

    # Values ----------------------------------------------------------------------------------

    def last(self, text: str) -> tuple[Write, StopEvent] | None:
        """Back to the last write of a variable (a static, a field, memory) before this moment,
        where it stands then; None where nothing wrote it before. Raises `InputError`,
        `ReadError`."""
        pa, size = self._place_of(text)
        if (pa, size) not in self._written:
            here = Moment(self.position)
            self._written[pa, size] = writers(self.player, pa, size)
            self.vm.seek(here.icount)
        here_at = self.position
        before = [w for w in self._written[pa, size].writes if w.place.icount < here_at]
        if not before:
            return None
        return before[-1], self.go_to(Moment(before[-1].place.icount))

    def _place_of(self, text: str) -> tuple[PhysAddr, int]:
        kernel = self._kernel()
        value = parse(text, kernel.stop.image).value(Evaluation.of(kernel))
        address = getattr(value, "address", None)
        if not isinstance(address, int):
            raise InputError(f"{text} has no place in memory", fix="name a static or a field")
        size = int(getattr(getattr(value, "type", None), "size", 8) or 8)
        root = kernel.stop.cpu.root
        pa = None if root is None else kernel.walk(root, address).pa
        if pa is None:
            raise ReadError(f"{text} is not mapped at this moment")
        return PhysAddr(pa), min(size, 4096)

    def _kernel(self) -> Kernel:
        return Kernel(self.player.here(StopReason("step")))


def _line_before(steps: Sequence[Step], source: Source, pc: int) -> int | None:
    """Where the line begins that ran before the one at `pc`; None where the steps do not tell."""
    line = source.position(pc).line
    at = len(steps) - 1
    while at >= 0 and source.position(steps[at].pc).line in (line, (None, None)):
        at -= 1
    if at < 0:
        return None
    wanted = source.position(steps[at].pc).line
    while at > 0 and source.position(steps[at - 1].pc).line == wanted:
        at -= 1
    return steps[at].icount if at > 0 else None


def debugger_of(player: Player) -> Debugger:
    """Run control of a recording, which stands at its end; faults are caught both ways. Raises
    `LinkError`."""
    player.vm.seek_end()
    debugger = Debugger(player.vm, player.image)
    debugger.start(bias=player.manifest.bias)
    return debugger
