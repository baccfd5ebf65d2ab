"""One guest, or one stop out of a file, as an agent or an editor holds it for a session."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from breenix_gdbagent import run_report
from breenix_gdbagent.checks.run import facts_of
from breenix_gdbagent.debugger.arbiter import Arbiter
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.guarded_run import Ended, GuardedRun, Orders, RunEnd
from breenix_gdbagent.debugger.stepping import Stepper
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.debugger.user_breakpoints import breakpoint_of
from breenix_gdbagent.errors import InputError, StateError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.reason import with_reason
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.document import RunRecord
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.stop import SerialText
from breenix_gdbagent.targets.saved import saved

LONGEST = 3600.0
"""Seconds that one run may take at most: nobody who holds a guest waits for ever."""


class Held(ABC):
    """What one client holds. `target` is how reports name it. All but `interrupt`, `running` and
    `serial` are for one thread at a time."""

    def __init__(self, target: Mapping[str, Json]) -> None:
        self.target = dict(target)
        self.event: StopEvent | None = None
        self.notes: list[str] = []
        self._kernel: Kernel | None = None
        self._epoch = -1
        self._report: Report | None = None

    @property
    def runs(self) -> bool:
        """Whether it can be let run at all."""
        return False

    @property
    def running(self) -> bool:
        """Whether it is being let run now."""
        return False

    @property
    @abstractmethod
    def kernel(self) -> Kernel:
        """The stop at hand, as the kernel found in it. Raises `LinkError`, `QemuDied`."""

    @property
    def serial(self) -> SerialText:
        """All serial text so far."""
        return self.kernel.stop.serial

    @abstractmethod
    def report(self) -> Report:
        """The report of the stop at hand: all checks, and what the run to it shows. Made once."""

    def live(self) -> HeldGuest:
        """The guest, for what only one that runs can do. Raises `InputError`."""
        raise InputError(
            "a file does not run",
            "this session holds a stop that was saved",
            "launch a guest, or attach to one",
        )

    def interrupt(self) -> bool:
        """From any thread: ask a guest that runs to stop; False when it stands still."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Let go of it. Twice does no harm."""


class HeldStop(Held):
    """A snapshot or core. Raises `InputError` for what is none."""

    def __init__(self, path: Path, kernel: Path | None, ram_size: str | None = None) -> None:
        super().__init__({"kind": "snapshot", "kernel": kernel.name if kernel else None})
        stop, self._extra = saved(path, kernel, ram_size)
        was = (self._extra or {}).get("target")
        if isinstance(was, Mapping):
            self.target = dict(was)
        self._kernel = Kernel(with_reason(stop))

    @property
    def kernel(self) -> Kernel:
        assert self._kernel is not None
        return self._kernel

    def report(self) -> Report:
        if self._report is None:
            self._report = run_report.document_of(self.kernel, self._extra, self.target)
        return self._report

    def close(self) -> None:
        """Nothing runs, and the file is only read."""


class HeldGuest(Held):
    """A guest under a debugger that has begun. `linger` are seconds to stay after the machine's own
    marker; `notes` are sentences of checkpoints and invariants on the way."""

    def __init__(self, debugger: Debugger, target: Mapping[str, Json], linger: float = 0.0) -> None:
        super().__init__(target)
        self.vm = debugger.vm
        self.debugger = debugger
        debugger.say = self.notes.append
        self.arbiter = Arbiter(debugger)
        self._linger = linger
        self._guarded = GuardedRun(debugger, Orders())
        self._end: RunEnd | None = None
        self._ended: Ended | None = None
        self._steppers: dict[int, Stepper] = {}

    @property
    def runs(self) -> bool:
        return True

    @property
    def running(self) -> bool:
        return bool(self.arbiter.owner)

    @property
    def serial(self) -> SerialText:
        return self.vm.serial

    @property
    def kernel(self) -> Kernel:
        epoch = self.vm.epoch
        if self._kernel is None or self._epoch != epoch:
            if self._end is not None:
                self._kernel = Kernel(self._end.stop)
            else:
                event = self.event or StopEvent(self.vm.found_at())
                self._kernel = Kernel(self.debugger.stop(event.reason))
            self._epoch = epoch
        return self._kernel

    def live(self) -> HeldGuest:
        return self

    def interrupt(self) -> bool:
        return self.arbiter.interrupt()

    def close(self) -> None:
        self.vm.close()

    # Runs ------------------------------------------------------------------------------------

    def run(self, until: str | None, seconds: float, location: str | None = None) -> None:
        """Run as `ci` does: past what the kernel lives on, to a fault, a point, the end, serial
        text that matches `until` (else the machine's own success marker), `location`, an
        interrupt, or until `seconds` are over. Raises `InputError`, `LinkError`, `QemuDied`."""
        self._guarded.orders = Orders(
            until=until,
            timeout=seconds,
            linger=self._linger,
            ends_on_request=True,
        )
        self._guarded.succeeded, self._guarded.watched = "", 0.0
        self.debugger.passes_fault = self._guarded.passes_fault
        self._moved()
        with self._once(location):
            self.event = self._let(self._guarded_job)

    @contextmanager
    def _once(self, location: str | None) -> Iterator[None]:
        """A breakpoint there meanwhile, where a location is named. Raises `InputError`."""
        if location is None:
            yield
            return
        image, number = self.debugger.loaded_or_linked, self.debugger.table.number()
        point = self.debugger.add(breakpoint_of(location, image, number, once=True))
        try:
            yield
        finally:
            if point in self.debugger.table and not self.vm.exited:
                self.debugger.remove(point)

    def _guarded_job(self) -> StopEvent:
        end = self._guarded.to_end()
        if end.ended == "deadline" and end.awaited is None and not end.stuck:
            end = replace(end, ended="")  # it was let run so long, and nothing was waited for
        self._end = end
        hits = self.debugger.hits
        points = tuple(p for p in hits.stopping if p.number > 0)
        return StopEvent(end.stop.reason, points, tuple(hits.notes))

    def go(self) -> None:
        """Run to a fault that is not known to be benign, a point, an interrupt or the end."""
        self.move(self.debugger.go)

    def move(self, job: Callable[[], StopEvent], seconds: float | None = None) -> None:
        """Do `job`, a step say, which lets the guest run; it is interrupted after `seconds`. Raises
        what `job` raises."""
        self.debugger.passes_fault = self.debugger.passes_by_rule
        self._moved()
        limit = None if seconds is None else threading.Timer(seconds, self._over, (seconds,))
        if limit is not None:
            limit.daemon = True
            limit.start()
        try:
            self.event = self._let(job)
        finally:
            if limit is not None:
                limit.cancel()

    def _over(self, seconds: float) -> None:
        if self.interrupt():
            self.notes.append(f"stopped by its own limit of {seconds:g} s")

    def stepper(self, cpu: int | None = None) -> Stepper:
        """The steps of a CPU, else of the one that stopped."""
        chosen = self.kernel.stop.reason.cpu if cpu is None else cpu
        return self._steppers.setdefault(chosen, Stepper(self.debugger, chosen))

    def _moved(self) -> None:
        """What was known of the stop is over."""
        if self.vm.exited:
            raise StateError(
                "closed", ("stopped",), "the guest has ended", "QEMU is gone", "launch again"
            )
        self.notes.clear()
        self.event = self._end = self._report = None

    def _let(self, job: Callable[[], StopEvent]) -> StopEvent:
        try:
            event = self.arbiter.run("this session", job)
        finally:
            # A request that came as the guest had stopped already is not for the next run.
            self.vm.asked_to_stop = False
        self.notes += event.notes
        for stepper in self._steppers.values():
            stepper.stopped(event)
        return event

    # What it comes to ------------------------------------------------------------------------

    def report(self) -> Report:
        if self._report is None:
            self._report = self._made()
        return self._report

    def _made(self) -> Report:
        if self._end is None:
            kernel = self.kernel
            record, facts = RunRecord(seconds=kernel.stop.seconds), facts_of(kernel.stop.reason)
            return run_report.finish(kernel, self.target, record, facts, self._guarded.history())
        ended = self._guarded.conclude(self._end)
        self._kernel = ended.kernel
        return run_report.finish(
            ended.kernel, self.target, ended.record, ended.facts, ended.history, ended.examined
        )

    def save(self, path: Path, memory: str) -> None:
        """The stop at hand as a snapshot, with what the run to it was. Raises `OutputError`."""
        report, kernel = self.report(), self.kernel
        record, facts = RunRecord(seconds=kernel.stop.seconds), facts_of(kernel.stop.reason)
        if self._end is not None:
            ended = self._guarded.conclude(self._end)
            record, facts = ended.record, ended.facts
        run_report.save(
            path, kernel, memory, self.target, record, facts, self._guarded.history(), {}, report
        )
