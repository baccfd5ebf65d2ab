"""What recording costs, what a replay that looks for writers costs, and what `when` does besides
its seeks."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from breenix_gdbagent import configs, lab
from breenix_gdbagent.configs import Files
from breenix_gdbagent.live import launch
from breenix_gdbagent.recording import manifest as names
from breenix_gdbagent.recording.machine import Recordable, recordable
from breenix_gdbagent.recording.manifest import read
from breenix_gdbagent.recording.plugin import candidates
from breenix_gdbagent.recording.qcow2 import write_empty
from breenix_gdbagent.recording.recorder import STATE_BYTES
from breenix_gdbagent.recording.replaying import open_replay
from breenix_gdbagent.timeline.player import Player
from breenix_gdbagent.timeline.probes import Probes
from breenix_gdbagent.timeline.when import When
from tests.bench.harness import Pairs, Row, absent, judged, pairs
from tests.guest.labrun import agent

SCENARIO, CODE = "kernel-stack-unmapped", "kernel-stack.unmapped"
LONG = "many"
PAIRS = 5
MOST_RECORD, MOST_WRITERS, MOST_WHEN = 1.5, 1.3, 4.0


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as room:
        place = Path(room)
        both = pairs(lambda: _runs("record", place), lambda: _runs(None, place), PAIRS)
        found = [judged("a run recorded", both, "the same counted", "ms", "<=", MOST_RECORD)]
        long = _recorded(LONG, place)
        if candidates():
            both = pairs(lambda: _plays(long, plugin=True), lambda: _plays(long), PAIRS)
            found.append(
                judged("a replay for who-wrote", both, "a replay", "ms", "<=", MOST_WRITERS)
            )
        else:
            found.append(absent("a replay for who-wrote", "a replay", "ms", "<=", MOST_WRITERS))
        found.append(_when(_recorded(SCENARIO, place)))
    return found


def _recorded(scenario: str, place: Path) -> Path:
    made = agent("record", "--lab", scenario, "-o", str(place / scenario))
    assert (place / scenario / names.NAME).is_file(), made.err
    return place / scenario


def _runs(rr: str | None, place: Path) -> float:
    """From the first instruction to the lab's last word."""
    directory = Path(tempfile.mkdtemp(dir=place))
    plan = _plan()
    shutil.copyfile(lab.elf(False), directory / names.KERNEL)
    write_empty(directory / "state.qcow2", STATE_BYTES)
    where = {"recording": str(directory), "disks": str(directory)}
    config = plan.machine(rr)
    with launch(config, kernel=lab.elf(False), prepare=lambda run: where) as vm:
        begun = time.perf_counter()
        reason = vm.run([lab.MARKER], 60)
        taken = (time.perf_counter() - begun) * 1000
        assert reason.kind == "marker"
    shutil.rmtree(directory)
    return taken


def _plan() -> Recordable:
    elf = lab.elf(False)
    return recordable(configs.load("lab"), Files(None, elf, (), lab.scenario(LONG).append), elf)


def _plays(directory: Path, *, plugin: bool = False) -> float:
    """From beginning to end, with the plugin on one page of tables or without."""
    words: tuple[str, ...] = ()
    values = {}
    if plugin:
        words = ("-plugin", "{plugin},lo=0x121440,hi=0x121448,at=0x121440,ram={ram},out={run}/s")
        values = {"plugin": str(candidates()[0])}
    with open_replay(directory, read(directory), more=words, values=values) as vm:
        begun = time.perf_counter()
        vm.run()
        return (time.perf_counter() - begun) * 1000


class _Counting(Probes):
    """Which moments were looked at, in order."""

    def __init__(self, player: Player) -> None:
        super().__init__(player)
        self.asked: list[int] = []

    def at(self, icount: int):  # type: ignore[no-untyped-def]
        self.asked.append(icount)
        return super().at(icount)


def _when(directory: Path) -> Row:
    with Player(directory) as player:
        probes = _Counting(player)
        begun = time.perf_counter()
        When(player, probes).first(CODE)
        ours = (time.perf_counter() - begun) * 1000
        begun = time.perf_counter()
        for icount in dict.fromkeys(probes.asked):
            player.vm.seek(icount)
        theirs = (time.perf_counter() - begun) * 1000
    name = f"when, {probes.count} moments examined"
    both = Pairs(ours, theirs, ours / theirs)
    return judged(name, both, "the same seeks bare", "ms", "<=", MOST_WHEN)
