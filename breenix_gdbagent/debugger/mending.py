"""Faults of a kernel's own that it mends and returns from, of a kernel that no adapter describes.

Which of its own faults such a kernel lives on stands nowhere (Linux makes its first page tables by
them, and its copies from and to ring 3 count on theirs). So it is seen: the frame that the CPU
pushed says where it goes back to, a breakpoint stands there, and a watchpoint on the frame's RIP
tells where an exception table sends it instead. A fault has been mended when the CPU is back there
with the RSP of the frame, and does not take the same fault again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.checks.examine import Examination
from breenix_gdbagent.checks.run import RFLAGS_IF
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.points import Only, Point, Watched
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.places import Place
from breenix_gdbagent.kernel.event import Event, event_at_handler
from breenix_gdbagent.live.fault import Fault

ABORTS = (8, 18)
"""#DF and #MC: there is nothing to return to (SDM volume 3, 6.15)."""

LOOK = 0.25
"""Seconds between two looks at a CPU that has not returned."""

LOOKS_OFF, LOOKS_HALTED = 4, 16
"""Looks in a row, with nothing said in between, at which a handler stands with interrupts off, or
halts: then it does not return."""

MOST_AGAIN = 3
"""How often in a row the same fault may come again: a kernel that was interrupted while it mended
it lets the instruction try again, one that mends nothing does so for ever."""

DEEPEST = 4
"""Faults in the handlers of one another, all waited for."""


@dataclass(slots=True)
class Waiting:
    """A fault whose handler runs: the stop at it, examined and kept; where the CPU goes back to."""

    event: Event
    seen: Examination
    back: int
    points: list[Point] = field(default_factory=list)

    @property
    def cpu(self) -> int:
        return self.seen.kernel.stop.reason.cpu


def event_of(fault: Fault) -> Event | None:
    """The exception at whose handler the guest stands; None where its frame cannot be read, or the
    CPU pushes none."""

    def read(va: int, length: int) -> bytes:
        data = fault.vm.read_or_none(va, length)
        if data is None:
            raise ReadError(f"{hex64(va)} is not mapped")
        return data

    vector = fault.reason.vector
    if vector is None or fault.vm.arch.interrupted_ring(fault.registers) is not None:
        return None
    cpu = Cpu(fault.reason.cpu, fault.registers, arch_name=fault.vm.arch.name)
    try:
        return event_at_handler(cpu, vector, read)
    except ReadError:
        return None


class Mending:
    """The faults of one run that are waited for, the newest last; `told` is called with each that
    was mended, and where the CPU went on."""

    def __init__(self, debugger: Debugger, told: Callable[[Waiting, int], None]) -> None:
        self.debugger = debugger
        self.told = told
        self.waiting: list[Waiting] = []
        self.sites: set[tuple[int, int]] = set()
        self._last: tuple[int, int, int | None] | None = None
        self._again = 0
        self._looks = 0
        self._said = -1

    def arrived(self, event: Event | None) -> None:
        """A fault has come, of whichever ring: it is counted how often the last one came again."""
        key = None if event is None else key_of(event)
        self._again = self._again + 1 if key is not None and key == self._last else 0
        self._last = key

    def known(self, event: Event) -> bool:
        """Whether a fault of this kind at this instruction was mended before, and this one has not
        come again and again."""
        return not self.is_endless(event) and (event.vector, event.rip) in self.sites

    def is_endless(self, event: Event) -> bool:
        """Whether the fault that has come now is the one before, again and again."""
        return self._again >= MOST_AGAIN and key_of(event) == self._last

    def may_return(self, event: Event) -> bool:
        """Whether it is worth waiting for: an exception of ring 0 that can be returned from, and
        does not come again and again."""
        if event.cpl or event.vector in ABORTS or self.is_endless(event):
            return False
        return len(self.waiting) < DEEPEST

    def wait_for(self, event: Event, seen: Examination) -> None:
        """Put in what shows that the CPU goes back. Raises `InputError`, `LinkError`."""
        one = Waiting(event, seen, event.rip)
        table = self.debugger.table
        back = Point(
            table.passage(),
            "passage",
            Place(hex64(one.back), fixed=(one.back,)),
            Only(),
            accept=lambda at: self._is_back(one, at),
        )
        slot = Watched("the frame's RIP", event.frame_at, 8)
        moved = Point(
            table.passage(),
            "passage",
            Place(slot.name),
            Only(),
            watched=(slot,),
            accept=lambda at: self._is_sent(one, back, at),
        )
        self.waiting.append(one)
        for point in (back, moved):
            self.debugger.add(point)
            one.points.append(point)
        self._looks, self._said = 0, -1

    def _is_sent(self, one: Waiting, back: Point, at: Evaluation) -> bool:
        """The frame's RIP was written: the breakpoint goes to where it leads now."""
        try:
            raw = at.memory.read(one.event.frame_at, 8)
        except (ReadError, InputError):
            return False
        one.back = int.from_bytes(raw, "little")
        back.place = Place(hex64(one.back), fixed=(one.back,))
        self.debugger.table.place(back)
        return False

    def _is_back(self, one: Waiting, at: Evaluation) -> bool:
        if at.cpu.stack == one.event.rsp and one in self.waiting:
            while self.waiting and self.waiting[-1] is not one:
                self._forget(self.waiting[-1])
            self._forget(one)
            self.sites.add((one.event.vector, one.event.rip))
            self.told(one, one.back)
        return False

    def _forget(self, one: Waiting) -> None:
        self.waiting.remove(one)
        self.debugger.remove(*one.points)

    def given_up(self) -> Examination | None:
        """The first fault that was not returned from, examined; nothing is waited for any more."""
        first = self.waiting[0] if self.waiting else None
        for one in list(self.waiting):
            self.waiting.remove(one)
            if not self.debugger.vm.exited:
                self.debugger.remove(*one.points)
        return None if first is None else first.seen

    def stands(self, cpus: tuple[Cpu, ...], said: int) -> bool:
        """Whether the handler of the newest fault does not go on; asked at every look. `said`
        counts the pieces of serial text."""
        one = self.waiting[-1]
        cpu = next((c for c in cpus if c.index == one.cpu), None)
        if cpu is None:
            return False
        if cpu.dead:
            return True
        self._looks = self._looks + 1 if said == self._said and cpu.cpl == 0 else 0
        self._said = said
        off = not (cpu.get("eflags") or 0) & RFLAGS_IF
        return self._looks >= (LOOKS_OFF if off else LOOKS_HALTED) and (off or bool(cpu.halted))


def key_of(event: Event) -> tuple[int, int, int | None]:
    """What is the same when the same fault is taken again."""
    return event.rip, event.rsp, event.cr2
