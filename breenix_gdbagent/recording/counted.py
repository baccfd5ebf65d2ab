"""A guest under QEMU's record/replay: where it stands in instructions."""

from __future__ import annotations

import threading
from contextlib import suppress

from breenix_gdbagent.errors import LinkClosed, LinkError
from breenix_gdbagent.link.qmp import Qmp
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.guest import Holds
from breenix_gdbagent.stop import Stop, StopReason

SAMPLE_SECONDS = 0.05
QUIT_SECONDS = 30.0
MONITOR_SECONDS = 120.0


class CountedVm(LiveVm):
    """One that can be asked for its instruction count and keeps snapshots."""

    @property
    def monitor(self) -> Qmp:
        """QEMU's monitor, which a guest that we launched has."""
        assert self._holds.qmp is not None
        return self._holds.qmp

    def icount(self) -> int:
        """How many instructions have been executed since the recording began. Raises
        `LinkError`."""
        with self._dying():
            answer = self.monitor.execute("query-replay", seconds=MONITOR_SECONDS)
        number = answer.get("icount") if isinstance(answer, dict) else None
        if not isinstance(number, int):
            raise LinkError("QEMU does not tell its instruction count")
        return number

    def save_snapshot(self, name: str) -> None:
        """Keep the whole machine in its disks. Raises `LinkError` with QEMU's words."""
        said = self.monitor.hmp(f"savevm {name}", MONITOR_SECONDS).strip()
        if said:
            raise LinkError("QEMU cannot keep a snapshot of this machine", said)

    def delete_snapshot(self, name: str) -> None:
        """Forget one. Raises `LinkError` with QEMU's words."""
        said = self.monitor.hmp(f"delvm {name}", MONITOR_SECONDS).strip()
        if said:
            raise LinkError("QEMU cannot delete a snapshot of this machine", said)

    def quit(self) -> str:
        """Have QEMU end by itself, so that all it writes is written; what it said on stderr."""
        process = self._holds.process
        assert process is not None
        if not self.exited:
            with suppress(LinkClosed):
                self.monitor.execute("quit", seconds=QUIT_SECONDS)
            if not process.exited.wait(QUIT_SECONDS):
                raise LinkError("QEMU does not end when told to")
            self.stub.has_ended()
        return process.stderr()


class RecordingVm(CountedVm):
    """One that is recorded: meanwhile its count is looked at now and then, so that a time of the
    run can be told of each count."""

    def __init__(self, holds: Holds, clock: RunClock) -> None:
        super().__init__(holds, clock)
        self.samples: list[tuple[int, float]] = []
        self._counts: dict[int, int] = {}
        self.stops: list[tuple[int, float]] = []
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="icount", daemon=True)
        self._sampler.start()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            try:
                seconds = self.clock.seconds()
                self.samples.append((self.icount(), seconds))
            except LinkError:
                return  # it has ended, and whoever runs it is told

    def stop(self, reason: StopReason | None = None, *, hidden: bool = True) -> Stop:
        """See `LiveVm.stop`; its instruction count is kept."""
        stop = super().stop(reason, hidden=hidden)
        if not self.exited and stop.epoch not in self._counts:
            self._counts[stop.epoch] = self.icount()
            self.stops.append((self._counts[stop.epoch], stop.seconds))
        return stop

    def count_of(self, stop: Stop) -> int | None:
        """The instruction count of a stop; None of one that was made after QEMU's end."""
        return self._counts.get(stop.epoch)

    def end_samples(self) -> None:
        """Look no more."""
        self._over.set()
        self._sampler.join()

    def close(self) -> None:
        self._over.set()
        super().close()
        self._sampler.join()
