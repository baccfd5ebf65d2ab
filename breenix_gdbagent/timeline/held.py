"""A recording in a client's hands: standing at any of its moments, and what it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from breenix_gdbagent import run_report
from breenix_gdbagent.checks.run import facts_of
from breenix_gdbagent.debugger.held import Held, HeldGuest, HeldStop
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.document import History, RunRecord
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.report.moments import origin_json
from breenix_gdbagent.report.writes import writers_json
from breenix_gdbagent.timeline.player import Moment, Player
from breenix_gdbagent.timeline.probes import Probes
from breenix_gdbagent.timeline.when import When, parse_code
from breenix_gdbagent.timeline.writers import resolve, writers


class HeldRecording(Held):
    """A recording, which stands at its last moment. Raises `InputError`, `QemuError`."""

    def __init__(self, directory: Path, kernel: Path | None) -> None:
        super().__init__({"kind": "replay", "kernel": None})
        self.player = Player(directory, kernel)
        target = self.player.beside.get("target")
        if isinstance(target, Mapping):
            self.target = dict(target)
        self._asking = self._given_up = False
        self._when = When(self.player, Probes(self.player, self._tell))
        self._at = self.player.end
        try:
            self._kernel = self.player.kernel(self._at)
        except BaseException:
            self.close()
            raise

    @property
    def kernel(self) -> Kernel:
        if self._kernel is None:
            self._kernel = self.player.kernel(self._at)
        return self._kernel

    def live(self) -> HeldGuest:
        raise InputError(
            "a recording does not run on",
            "what happened in it has happened",
            "move in it: step how=goto with a moment (an instruction count, 1.5s, end, or text)",
        )

    @property
    def running(self) -> bool:
        return self._asking

    def interrupt(self) -> bool:
        self._given_up = self._asking
        return self._asking

    def _tell(self, count: int) -> None:
        """`count` moments were looked at: between two of them the question can be given up."""
        if self._given_up:
            raise InputError(f"given up after {count} moments", fix="ask again: it goes on there")

    @contextmanager
    def _question(self) -> Iterator[None]:
        """The guest is elsewhere afterwards."""
        self._asking, self._given_up = True, False
        try:
            yield
        finally:
            self._asking = False
            self._kernel = None

    def goto(self, text: str) -> None:
        """Stand at another moment. Raises `InputError`."""
        self._at = self.player.moment(text)
        self._kernel = self._report = None

    def by(self, count: int) -> None:
        """So many instructions on, or back. Raises `InputError` beyond either end."""
        wanted = self._at.icount + count
        if not 0 <= wanted <= self.player.end.icount:
            raise InputError(
                f"the recording has no instruction {wanted}",
                f"it has 0 to {self.player.end.icount}, and stands at {self._at.icount}",
            )
        self._at = Moment(wanted)
        self._kernel = self._report = None

    @property
    def moment(self) -> str:
        """Where it stands, in words."""
        last = self.player.end.icount
        end = ", the end" if self._at.at_end else ""
        return f"instruction {self._at.icount} of {last}{end}"

    def when(self, code: str) -> dict[str, Json]:
        """When a finding first held, as ``when --json`` has it. Raises `InputError`."""
        wanted = parse_code(code)
        with self._question():
            return origin_json(self._when.first(*wanted))

    def who_wrote(self, place: str) -> dict[str, Json]:
        """Every write of a place, as ``who-wrote --json`` has it. Raises `InputError`."""
        with self._question():
            pa = resolve(self.player, place, self._at)
            return writers_json(writers(self.player, pa, tell=self._tell))

    def report(self) -> Report:
        if self._report is None:
            kernel = self.kernel
            if self._at.at_end:
                self._report = run_report.document_of(kernel, self.player.beside, self.target)
            else:
                record, facts = RunRecord(seconds=kernel.stop.seconds), facts_of(kernel.stop.reason)
                self._report = run_report.finish(kernel, self.target, record, facts, History())
        return self._report

    def close(self) -> None:
        self.player.__exit__(None, None, None)


def opened(path: str, kernel: str | None) -> Held:
    """A stop out of a file, or a recording, which is a directory. Raises `InputError`."""
    elf = Path(kernel) if kernel else None
    return HeldRecording(Path(path), elf) if Path(path).is_dir() else HeldStop(Path(path), elf)
