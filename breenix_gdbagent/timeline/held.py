"""A recording in a client's hands: standing at any of its moments, and what it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from breenix_gdbagent import run_report
from breenix_gdbagent.debugger.held import Held, HeldGuest, HeldStop
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.report.moments import origin_json
from breenix_gdbagent.report.writes import writers_json
from breenix_gdbagent.timeline.player import Moment, Player
from breenix_gdbagent.timeline.probes import Probes
from breenix_gdbagent.timeline.travel import Traveller, debugger_of
from breenix_gdbagent.timeline.when import When, parse_code
from breenix_gdbagent.timeline.writers import resolve, writers


class HeldRecording(HeldGuest):
    """A recording under run control, which stands at its last moment and goes both ways. Raises
    `InputError`, `QemuError`."""

    def __init__(self, directory: Path, kernel: Path | None) -> None:
        self.player = Player(directory, kernel)
        self._asking = self._given_up = False
        self._when = When(self.player, Probes(self.player, self._tell))
        target = self.player.beside.get("target")
        named = target if isinstance(target, Mapping) else {"kind": "replay", "kernel": None}
        try:
            debugger = debugger_of(self.player)
            super().__init__(debugger, named)
            self.travel = Traveller(self.player, debugger)
            self.event = self.travel.go_to(self.player.end)
        except BaseException:
            self.close()
            raise

    @property
    def running(self) -> bool:
        return self._asking or super().running

    def interrupt(self) -> bool:
        self._given_up = self._asking
        return self._asking or super().interrupt()

    def _tell(self, count: int) -> None:
        """`count` moments were looked at: between two of them the question can be given up."""
        if self._given_up:
            raise InputError(f"given up after {count} moments", fix="ask again: it goes on there")

    @contextmanager
    def _question(self) -> Iterator[None]:
        """The guest is elsewhere meanwhile, and here again afterwards."""
        here, event = self.travel.here, self.event
        self._asking, self._given_up = True, False
        try:
            yield
        finally:
            self._asking = False
            self.travel.go_to(here)
            self.event = event

    def run(self, until: str | None, seconds: float, location: str | None = None) -> None:
        """On to a fault, a point, `location` or the end, for so many seconds at most; or to the
        moment at which serial text that matches `until` had been written. Raises `InputError`."""
        if until is not None:
            self.goto(until)
            return
        with self._once(location):
            self.move(self.debugger.go, seconds)

    def goto(self, text: str) -> None:
        """Stand at another moment. Raises `InputError`."""
        moment = self.travel.moment(text)
        self.move(lambda: self.travel.go_to(moment))

    def by(self, count: int) -> None:
        """So many instructions on, or back. Raises `InputError` beyond either end."""
        here, last = self.travel.position, self.player.end.icount
        wanted = here + count
        if not 0 <= wanted <= last:
            raise InputError(
                f"the recording has no instruction {wanted}",
                f"it has 0 to {last}, and stands at {here}",
            )
        self.move(lambda: self.travel.go_to(Moment(wanted)))

    @property
    def moment(self) -> str:
        """Where it stands, in words."""
        here = self.travel.here
        end = ", the end" if here.at_end else ""
        return f"instruction {here.icount} of {self.player.end.icount}{end}"

    def when(self, code: str) -> dict[str, Json]:
        """When a finding first held, as ``when --json`` has it. Raises `InputError`."""
        wanted = parse_code(code)
        with self._question():
            return origin_json(self._when.first(*wanted))

    def who_wrote(self, place: str) -> dict[str, Json]:
        """Every write of a place, as ``who-wrote --json`` has it. Raises `InputError`."""
        here = self.travel.here
        with self._question():
            pa = resolve(self.player, place, here)
            return writers_json(writers(self.player, pa, tell=self._tell))

    def _made(self) -> Report:
        if self.travel.here.at_end:
            return run_report.document_of(self.kernel, self.player.beside, self.target)
        return super()._made()

    def close(self) -> None:
        self.player.close()


def opened(path: str, kernel: str | None) -> Held:
    """A stop out of a file, or a recording, which is a directory. Raises `InputError`."""
    elf = Path(kernel) if kernel else None
    return HeldRecording(Path(path), elf) if Path(path).is_dir() else HeldStop(Path(path), elf)
