"""A recording in Python: every moment of a run, and questions about all of them.

>>> import breenix_gdbagent as ba
>>> with ba.replay(recording) as vm:
...     origin = vm.when("kernel-stack.unmapped")
...     stop = vm.goto(origin.place.icount)
...     "remove_own_stack" in vm.kernel.symbol(stop.cpu.rip)
...     found = vm.writers(origin.change.pa)
...     found.complete, found.writes[-1].place.icount == origin.place.icount
True
(True, True)
"""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.api.vm import Vm
from breenix_gdbagent.debugger.arbiter import Arbiter
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.timeline.player import Player
from breenix_gdbagent.timeline.travel import Traveller, debugger_of
from breenix_gdbagent.timeline.when import When, parse_code
from breenix_gdbagent.timeline.writers import resolve, writers
from breenix_gdbagent.views.moments import Origin, Writers


def replay(directory: str | Path, kernel: str | Path | None = None) -> ReplayedVm:
    """Open a recording (``record -o DIR``), which stands at its end. `kernel` is the ELF that was
    recorded, where another file than the recording's own is to be read. Raises `InputError`,
    `QemuError`."""
    player = Player(Path(directory), None if kernel is None else Path(kernel))
    try:
        return ReplayedVm(player)
    except BaseException:
        player.close()
        raise


class ReplayedVm(Vm):
    """A guest that goes both ways: what `Vm` does goes forwards, up to the recording's end."""

    def __init__(self, player: Player) -> None:
        debugger = debugger_of(player)
        super().__init__(Arbiter(debugger), player.close)
        self._player = player
        self._travel = Traveller(player, debugger)
        self._when = When(player)

    @property
    def icount(self) -> int:
        """How many instructions have run since the recording began."""
        return self._travel.position

    def goto(self, moment: int | str) -> Stop:
        """Stand at an instruction count, ``"end"``, a time (``"1.5s"``), or the first moment at
        which the guest had written text that matches. Raises `InputError`."""
        found = self._travel.moment(str(moment))
        return self._run(lambda: self._travel.go_to(found))

    def reverse_run(self) -> Stop:
        """Back to the last point or fault before this moment."""
        return self._run(self._travel.back_to_point)

    def reverse_step(self) -> Stop:
        """Back to the source line that ran before this one, into calls."""
        return self._run(lambda: self._travel.back_line(over=False))

    def reverse_next(self) -> Stop:
        """The same over calls."""
        return self._run(lambda: self._travel.back_line(over=True))

    def reverse_stepi(self, count: int = 1) -> Stop:
        """`count` instructions back."""
        return self._run(lambda: self._travel.back(count))

    def reverse_finish(self) -> Stop:
        """Back to the call of this function."""
        return self._run(self._travel.back_out)

    def when(self, code: str) -> Origin:
        """When the finding ``CODE[@SUBJECT]`` first held; the guest stands where it stood."""
        here = self.icount
        try:
            return self._when.first(*parse_code(code))
        finally:
            self._player.vm.seek(here)

    def writers(self, place: int | str, length: int = 8) -> Writers:
        """Every write of a physical address, of what a symbol or a virtual address leads to at
        this moment, or of the entry that maps one (``"entry 0x..."``)."""
        here = self._travel.moment(str(self.icount))
        pa = place if isinstance(place, int) else resolve(self._player, place, here)
        try:
            return writers(self._player, pa, length)
        finally:
            self._player.vm.seek(here.icount)
