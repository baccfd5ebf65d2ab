"""The user's breakpoints, watchpoints and so on by number, and what each needs set in the guest.

A point wants breakpoints as soon as its addresses are known: at once, when the load bias is proved,
or when the IDT is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from breenix_gdbagent.debugger.points import Point, Watched
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.evaluation.places import Place
from breenix_gdbagent.link.breakpoints import Break
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.live.catching import FAULTS
from breenix_gdbagent.live.elfcode import KernelCode
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.x86.descriptors import GATE_SIZE, parse_gate

MOST_CANDIDATES = 32
"""Breakpoints of one point while the load bias is not known: each costs a TCG guest some 2 %."""

WIDEST = 4096
"""Bytes of one watchpoint."""

CAUTION = (
    "under QEMU's instruction counter each stop lets the clock jump to the guest's next timer: "
    "a point on the timer's own path keeps the guest there"
)
"""icount with sleep=off: the main loop warps before it has noted the stop (QEMU util/main-loop.c,
main_loop_wait; softmmu/icount.c, icount_start_warp_timer)."""

_MASK = (1 << 64) - 1


class PointTable:
    """All points of one guest, by number."""

    def __init__(self, vm: LiveVm, image: Image | None) -> None:
        self.vm = vm
        self.image = image
        self.points: dict[int, Point] = {}
        self._next = 1
        self._passages = 0
        self._base: int | None = None
        self._bases: tuple[int, ...] | None = None
        self._refused: set[int] = set()

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points.values())

    @property
    def caution(self) -> str:
        """What points do to this guest's time, "" where nothing is to be said."""
        config = self.vm.config
        return CAUTION if config is not None and config.settings.deterministic else ""

    def number(self) -> int:
        """The next free number."""
        self._next += 1
        return self._next - 1

    def passage(self) -> int:
        """A number for a point that is not the user's: below 0."""
        self._passages -= 1
        return self._passages

    def add(self, point: Point) -> Point:
        """Enter a point. Raises `InputError`, `LinkError`, and enters nothing then."""
        self.points[point.number] = point
        try:
            self.place(point)
        except BaseException:
            del self.points[point.number]
            self.vm.ledger.set_wanted(owner_of(point), ())
            raise
        return point

    def remove(self, *points: Point) -> None:
        """Take points out of the table and of the guest."""

        def forget() -> None:
            for point in points:
                self.points.pop(point.number, None)
                self.vm.ledger.set_wanted(owner_of(point), ())

        self.vm.change(forget)

    def get(self, number: int) -> Point:
        """Raises `InputError` for a number that there is not."""
        if number not in self.points or number < 0:
            raise InputError(f"there is no point {number}", fix="list them: break")
        return self.points[number]

    def place(self, point: Point) -> None:
        """Work out where its breakpoints are now; the guest has them before it moves."""
        self.vm.change(lambda: self._want(point))

    def place_all(self) -> None:
        """Again for every point: something that was not known before may be known now."""
        for point in self.points.values():
            if not point.watched:
                self._want(point)

    def forget(self) -> None:
        """The machine was reset: what was learnt of the kernel's place holds no more."""
        self._base = None
        self._refused.clear()
        self.place_all()

    def _want(self, point: Point) -> None:
        wanted = tuple(self._breaks(point)) if point.enabled else ()
        self.vm.ledger.set_wanted(owner_of(point), wanted)

    def pending(self, point: Point) -> str:
        """Why a point is not in the guest yet, "" when it is."""
        if not point.enabled or self.vm.ledger.of(owner_of(point)):
            return ""
        if point.place.vector is not None:
            return "put in when the kernel has loaded its IDT with that gate"
        if point.kind == "watch":
            return "watched as soon as the kernel runs and it has a place"
        if self.vm.arming.bias is None and point.place.links:
            return "put in when the kernel has loaded its IDT"
        return "nowhere"

    # Addresses -----------------------------------------------------------------------------

    def _breaks(self, point: Point) -> Iterator[Break]:
        for watched in point.watched:
            yield watch_break(watched)
        if point.watched:
            return
        for address in self.addresses(point.place):
            if address not in self._refused:
                yield Break("hardware", address)

    def addresses(self, place: Place) -> tuple[int, ...]:
        """Virtual addresses of a place, candidates included; () while they are not known."""
        if place.vector is not None:
            handler = self.handler(place.vector)
            return () if handler is None else (handler,)
        bases = self.bases()
        if len(bases) > 1 and len(bases) * len(place.links) > MOST_CANDIDATES:
            return place.fixed
        return place.at_any(bases)

    def bases(self) -> tuple[int, ...]:
        """The load bias, or all that are possible."""
        if self.base is not None:
            return (self.base,)
        if self._bases is None:
            if self.image is None:
                self._bases = ()
            else:
                config = self.vm.config
                identity = config is not None and "kernel" in config.needs
                self._bases = tuple(KernelCode.read(self.image.path).bases(identity=identity))
        return self._bases

    def handler(self, vector: int) -> int | None:
        """Where the gate of a vector leads, None without an IDT or with the gate not present."""
        table = self.vm.arming.idtr
        if table is None or vector * GATE_SIZE + GATE_SIZE - 1 > (table.limit or 0):
            return None
        gate = self.vm.read_or_none(table.base + vector * GATE_SIZE, GATE_SIZE)
        found = None if gate is None else parse_gate(vector, gate)
        return None if found is None or not found.present else found.offset

    # Hits ----------------------------------------------------------------------------------

    def at(self, rip: int) -> list[Point]:
        """The points that have a breakpoint at `rip`."""
        return self._points_of(Break("hardware", rip))

    def watching(self, address: int) -> list[Point]:
        """The points that a watchpoint's hit may be of."""
        found: dict[int, Point] = {}
        for one in self.vm.ledger.watching(address):
            found.update((point.number, point) for point in self._points_of(one))
        return list(found.values())

    def is_foreign(self, address: int, *, code: bool = False) -> bool:
        """Whether somebody else has a breakpoint (`code`) or watchpoint there: a gdb at a bridge,
        or whoever put one in without a point."""
        ledger = self.vm.ledger
        breaks = [Break("hardware", address)] if code else ledger.watching(address)
        owners = {owner for one in breaks for owner in ledger.owners(one)} - {FAULTS}
        return bool(owners - {owner_of(point) for point in self.points.values()})

    def _points_of(self, one: Break) -> list[Point]:
        owners = self.vm.ledger.owners(one)
        return [p for p in self.points.values() if owner_of(p) in owners] if owners else []

    @property
    def base(self) -> int | None:
        """The load bias as far as it is known: proved at ``lidt``, or by code that was stopped
        at."""
        return self.vm.arming.bias if self.vm.arming.bias is not None else self._base

    @base.setter
    def base(self, base: int) -> None:
        self._base = base

    def learn(self, rip: int, points: Sequence[Point]) -> bool:
        """The base from the code at `rip`, while it is not known; False when what was hit there is
        not the kernel, but other code at one of the candidate addresses of `points`."""
        if self.base is not None or not all(p.place.links for p in points):
            return True
        self._base = self._base_at(rip)
        if self._base is None and points:
            self._refused.add(rip)
            self.place_all()
            return False
        return True

    def _base_at(self, rip: int) -> int | None:
        if self.image is None:
            return None
        code = KernelCode.read(self.image.path)
        for base in self.bases():
            if code.stands_at(base, (rip - base) & _MASK, self.vm.read_or_none):
                return base
        return None


def owner_of(point: Point) -> str:
    """The name of a point in the ledger."""
    return f"point {point.number}"


def watch_break(watched: Watched) -> Break:
    """QEMU takes ranges of any length; a bound keeps a slip of the user's from stopping all."""
    if not 0 < watched.length <= WIDEST:
        raise InputError(
            f"{watched.length} bytes cannot be watched", fix=f"watch 1 to {WIDEST} bytes"
        )
    return Break(watched.access, watched.address, watched.length)
