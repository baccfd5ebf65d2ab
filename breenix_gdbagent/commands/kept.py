"""What a recorded run leaves: the recording, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from breenix_gdbagent import run_report
from breenix_gdbagent.commands.output import aside
from breenix_gdbagent.debugger.guarded_run import Ended
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.recording.recorder import Recorder
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.report.moments import origin_json
from breenix_gdbagent.targets import Machine
from breenix_gdbagent.targets.facts import machine_facts
from breenix_gdbagent.timeline.player import Player
from breenix_gdbagent.timeline.when import When


class Kept:
    """A recording in the making; what is not finished is removed. With `if_failed` one of a run
    that passed is removed too."""

    def __init__(self, recorder: Recorder, if_failed: bool = False) -> None:
        self.recorder = recorder
        self._if_failed = if_failed
        self._done = False

    def ended(
        self, machine: Machine, ended: Ended, named: Mapping[str, Json], report: Report
    ) -> Report:
        """The report with where the run was recorded."""
        if self._if_failed and not report.run.exit:
            return report
        beside = run_report.beside(
            named, ended.record, ended.facts, ended.history, machine_facts(machine)
        )
        made = self.recorder.finish(machine.vm, ended.kernel.stop, beside)
        self._done = True
        told = made.to_json()
        if self._if_failed:
            told["moments"] = list(self._moments())
        aside(
            f"breenix-gdbagent: recorded {made.icount:,} instructions into {made.path} "
            f"({made.bytes / 1e6:.1f} MB), from {_FROM[made.start]}"
            + (f"; recorded with {', '.join(made.changes)}" if made.changes else "")
        )
        return replace(report, recording=told)

    def _moments(self) -> list[dict[str, Json]]:
        """When each finding first held: who reads the report may not have the recording."""
        with Player(self.recorder.directory) as player:
            return [origin_json(one) for one in When(player).every()]

    def close(self) -> None:
        """What is no recording is not left behind."""
        if not self._done:
            self.recorder.discard()


_FROM = {"reset": "the reset on", "kernel-entry": "the kernel's first instruction on"}
