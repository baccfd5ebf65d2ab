"""A guarded run: on to the end that was asked for, past the faults that are no bugs.

A fault of ring 3 is recorded and passed: whether it is a defect shows in what the kernel does next.
A fault of the kernel itself decides the run, and so do panic, shutdown, exit and the deadline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks import growth, registers
from breenix_gdbagent.checks.examine import CheckTime, Clock, Examination, examine, times_of
from breenix_gdbagent.checks.faults import as_handled, as_mended, may_be_mended
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.run import RunFacts
from breenix_gdbagent.debugger.benign import of_ring3
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.mending import LOOK, Mending, Waiting, event_of, key_of
from breenix_gdbagent.debugger.points import Point
from breenix_gdbagent.debugger.script import Step
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.debugger.user_breakpoints import breakpoint_of, checkpoint_of, invariant_of
from breenix_gdbagent.debugger.where import note_where
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.kernel.adapter import Adapter
from breenix_gdbagent.kernel.event import Event
from breenix_gdbagent.kernel.firmware_dump import DUMPED, firmware_dump
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.live.fault import Fault
from breenix_gdbagent.memory.copied import CopiedMemory
from breenix_gdbagent.memory.recording import RecordingMemory
from breenix_gdbagent.report.document import (
    History,
    RunRecord,
    shown_check,
    shown_finding,
    shown_stop,
)
from breenix_gdbagent.report.model import Interrupts, Marker, ShownCheck, ShownFinding, ShownStop
from breenix_gdbagent.selection import pages_to_keep
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.symbols import Image, LoadedImage
from breenix_gdbagent.views.stop_summary import stop_summary

LOOK_AFTER_FAULT = 1.0  # seconds after a passed fault of ring 3 until we see whether all is dead
STUCK_LOOKS = 12
"""Looks at a CPU with interrupts off before it is called stuck. A slow host's guest spends most of
its time in its timer interrupts: few looks prove nothing."""
MOST_LOOKS = 3 * STUCK_LOOKS  # with those that tell nothing
STUCK_SECONDS = 0.05  # between them
RECORDED_FAULTS = 32  # faults of ring 3 that are examined in full; the rest are counted

# What the page-fault handler prints once copy-on-write and growth are ruled out
# (kernel/src/interrupts.rs): a fault that it does not mend.
SURVIVED_NOT = "EXCEPTION: PAGE FAULT"
PAGE_FAULT = 14


@dataclass(frozen=True, slots=True)
class Orders:
    """What a run is to do. `until` is a regular expression of serial text; with None the machine's
    own marker ends the run. `linger` seconds are watched after the machine's success marker, and
    after whatever `until` is with `always_linger`. `timeout` in seconds. `memory` is what a
    snapshot will keep (see `selection.pages_to_keep`). `first_fault`: any fault that is not
    recognised as benign ends the run (snapshot). `check_interrupts`: registers are compared at
    every entry and return. `ends_on_request`: an interrupt is an end as any
    other, of whoever asks from another thread; else it is a Ctrl-C and raises."""

    until: str | None = None
    timeout: float = 60.0
    linger: float = 0.0
    always_linger: bool = False
    memory: str = "kernel"
    first_fault: bool = False
    ends_on_request: bool = False
    fatal_only: bool = False
    audit_every: str | None = None
    strict: bool = False
    script: tuple[Step, ...] = ()
    check_interrupts: bool = False


@dataclass(slots=True)
class Recorded:
    """A fault that was passed: its findings wait for what the kernel does next. `mended` says how
    the kernel went on after one of its own, that of `event`."""

    stop: ShownStop
    findings: tuple[tuple[Finding, ShownFinding], ...]
    checks: tuple[ShownCheck, ...]
    adapter: Adapter
    handled: bool = False
    mended: str = ""
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class RunEnd:
    """Where a run has come to, and nothing examined yet. `ended` is what ended it (see `RunFacts`),
    `awaited` the text that was waited for; `stuck`: looked at again, no CPU got any further."""

    stop: Stop
    ended: str
    awaited: str | None = None
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How the run ended: the deciding stop, examined, and what came before it; what every check
    took, where there was a clock."""

    examined: Examination
    facts: RunFacts
    history: History
    record: RunRecord
    took: tuple[CheckTime, ...] = ()

    @property
    def kernel(self) -> Kernel:
        return self.examined.kernel


class GuardedRun:
    """One run of one guest: the debugger with a policy for faults, and orders for the end.

    The debugger's `say` is told in words what goes on; `clock` times the checks.
    """

    def __init__(self, debugger: Debugger, orders: Orders, clock: Clock | None = None) -> None:
        self.clock = clock
        self.took: list[CheckTime] = []
        self.debugger = debugger
        self.vm = debugger.vm
        self.orders = orders
        self.recorded: list[Recorded] = []
        self.benign = 0
        self.succeeded = ""
        self.watched = 0.0
        self.accounts: dict[str, growth.Account | None] = {}
        self._decides = True
        self._examined: Examination | None = None
        self.mending = Mending(debugger, self._was_mended)
        debugger.passes_fault = self.passes_fault

    def start(self) -> None:
        """Arm fault catching; before a launched guest's first instruction."""
        if self.orders.check_interrupts:
            self.debugger.check_interrupts()
        self.debugger.start((PAGE_FAULT,) if self.orders.fatal_only else ())

    def go(self) -> Ended:
        """Run to the end. Raises `LinkError`, `QemuDied`, `InputError`."""
        return self.conclude(self.to_end())

    def to_stop(self) -> Kernel:
        """`go`, for whoever only looks at the stop where the run ends. That is examined only where
        the run had to, to know that it ends there, and then once: what was read is handed on."""
        stop = self._to_end()[0]
        seen = self._seen(stop)
        return Kernel(stop) if seen is None else seen.kernel

    def to_end(self) -> RunEnd:
        """Run to the end, for whoever may want it concluded: until then nothing but what decides
        the run has been examined. Raises `LinkError`, `QemuDied`, `InputError`."""
        stop, ended, awaited = self._to_end()
        stuck = False
        if ended == "deadline":
            stop, stuck = self._is_stuck(stop)
        return RunEnd(stop, ended, awaited, stuck)

    def _to_end(self) -> tuple[Stop, str, str | None]:
        """The stop that ends the run, what ended it (see `RunFacts`), the text waited for."""
        own = self.vm.config.success if self.vm.config is not None else None
        for step in self.orders.script:
            if step.verb == "send":
                self.vm.console.send(step.text.encode() + b"\n")
                continue
            stop = self._run([step.text], self.orders.timeout - self.vm.clock.seconds())
            if stop.reason.kind != "marker":
                return stop, stop.reason.kind, step.text
        awaited = self.orders.until or (None if self.orders.script else own)
        if awaited is None and self.orders.script:
            return self.debugger.stop(stop.reason), "marker", None
        ends = [awaited] if awaited else []
        stop = self._run([*ends, *self._failures], self.orders.timeout)
        ended = stop.reason.kind
        if ended == "marker":
            self._survived()
            if self._lingers(stop):
                stop, ended = self._lingered(stop)
        return stop, ended, awaited

    def _lingers(self, stop: Stop) -> bool:
        """Whether the guest is watched on after this marker: the user says so, or it is the
        machine's own word of success."""
        config = self.vm.config
        own = config.success if config is not None else None
        if self.orders.linger <= 0 or self._gave_verdict(stop):
            return False
        return self.orders.always_linger or (own is not None and _any([own], stop))

    def _lingered(self, stop: Stop) -> tuple[Stop, str]:
        """The guest watched on after its marker. A fault then decides, and so does an error that
        is not there at the marker; else the stop at the marker does, which is kept in a copy."""
        self.succeeded = f"{stop.reason.text!r} at {stop.seconds:.3g} s"
        before = self._kept(stop)
        later = self._run([], self.orders.linger)
        self.watched = later.seconds - stop.seconds
        if later.reason.kind != "deadline":
            return later, later.reason.kind
        later = later._replace(reason=stop.reason)
        if _errors(self._examine(later)) - _errors(before):
            return later, "marker"
        self._examined = before
        return before.kernel.stop, "marker"

    def _kept(self, stop: Stop) -> Examination:
        """A stop examined, in a copy of what a snapshot would keep: to be read when the guest has
        run on."""
        seen = self._examine(stop)
        frames = pages_to_keep(seen.kernel, self.orders.memory)
        copied = CopiedMemory(stop.memory, frames)
        kernel = Kernel(seen.kernel.stop._replace(memory=RecordingMemory(copied)))
        return examine(kernel.stop, kernel, self.clock)

    def _gave_verdict(self, stop: Stop) -> bool:
        """Whether the kernel says itself at this stop that its tests failed."""
        return bool(self._failures) and _any(self._failures, stop)

    @property
    def _failures(self) -> tuple[str, ...]:
        """What the machine's kernel prints when its own tests failed."""
        return self.vm.config.failure if self.vm.config is not None else ()

    def now(self) -> Ended:
        """The guest as it stands, without letting it run."""
        reason = self.vm.found_at()
        ended = "" if reason.kind == "attached" else reason.kind
        return self.conclude(RunEnd(self.debugger.stop(reason), ended))

    def stop_at(self, location: str) -> None:
        """A breakpoint that ends the run, after `start`. Raises `InputError`."""
        self._add(breakpoint_of, location)

    def look_at(self, checkpoints: Sequence[str], invariants: Sequence[str]) -> None:
        """Checkpoints and invariants as users write them, after `start`. Raises `InputError`."""
        for text in checkpoints:
            self._add(checkpoint_of, text)
        for text in invariants:
            self._add(invariant_of, text)
        caution = self.debugger.table.caution
        if caution and (checkpoints or invariants):
            self.debugger.say(caution)

    def _add(self, make: Callable[[str, LoadedImage | None, int], Point], text: str) -> None:
        debugger = self.debugger
        try:
            debugger.add(make(text, debugger.loaded_or_linked, debugger.table.number()))
        except ReadError as error:
            # "no such symbol" is an answer of `symbol`; here nothing can begin.
            raise InputError(error.what, error.why, error.fix) from error

    # Stops -----------------------------------------------------------------------------------

    def _run(self, patterns: Sequence[str], seconds: float) -> Stop:
        """Run until something decides. After a recorded fault of ring 3 the guest is looked at
        soon: a kernel that halts for ever then has given up, and waiting would not tell more.

        Raises `KeyboardInterrupt` for a Ctrl-C, which is no end that could pass for one."""
        until = self.vm.clock.seconds() + seconds
        every = self.orders.audit_every
        look = False
        while True:
            left = max(until - self.vm.clock.seconds(), 0.0)
            limit = min(left, LOOK_AFTER_FAULT) if look else left
            if self.mending.waiting:
                limit = min(left, LOOK)
            self._decides = True
            awaited = [*patterns, *([every] if every else [])]
            if self.orders.fatal_only:
                awaited.append(SURVIVED_NOT)
            if self.vm.arming.armed_at is None:
                awaited.append(DUMPED)
            event = self._moved(awaited, limit)
            kind = event.reason.kind
            if kind == "fault" and not self._decides:
                look = True
                continue
            stop = self.debugger.stop(event.reason)
            if kind == "marker" and not _any(patterns, stop):
                if firmware_dump(stop.serial) is not None and _any([DUMPED], stop):
                    return stop._replace(reason=StopReason("halted", text=FIRMWARE_SPINS))
                self._survived()
                if every and _any([every], stop):
                    self._audit(stop)
                elif (given_up := self._in_handler(stop)) is not None:
                    return given_up
            elif kind != "deadline" or limit == left:
                for note in event.notes:
                    self.debugger.say(f"{stop.seconds:9.3f}  {note}")
                return self._by_first(stop)
            elif self.mending.waiting:
                if self.mending.stands(stop.cpus, len(stop.serial.chunks)):
                    return self._by_first(stop)
            elif _dead(stop):
                return stop._replace(reason=StopReason("halted", text=GAVE_UP))
            else:
                self._survived()
                look = False

    def _by_first(self, stop: Stop) -> Stop:
        """The stop that decides: that of the first fault of the kernel's own which it has not
        returned from, where there is one. A kernel that came to the awaited text all the same has
        gone on without that; the fault is told beside it then."""
        first = self.mending.given_up()
        if first is None:
            return stop
        if stop.reason.kind == "marker":
            self._record(first)
            return stop
        self._examined = first
        return first.kernel.stop

    def _was_mended(self, one: Waiting, back: int) -> None:
        """The kernel has returned from a fault of its own, to `back`."""
        self.benign += 1
        if len(self.recorded) < RECORDED_FAULTS:
            again = back == one.event.rip
            went = "ran the instruction again" if again else f"went on at {hex64(back)}"
            events = tuple(f for f in one.seen.findings if f.code.kind == "event")
            seen = Examination(one.seen.kernel, events, (), one.seen.took)
            self._record(seen, handled=True)
            last = self.recorded[-1]
            last.mended = f"the kernel mended it, returned from its handler and {went}"
            last.event = one.event

    def _moved(self, patterns: Sequence[str], seconds: float) -> StopEvent:
        """To the next event. Raises `KeyboardInterrupt` for a Ctrl-C, also for one that came as
        the guest stopped by itself."""
        try:
            event = self.debugger.go(patterns, seconds)
        except SystemExit as ended:
            note_where(ended, self.debugger)
            raise
        if self.orders.ends_on_request:
            return event
        asked = event.reason.kind == "interrupt" and not event.reason.text
        if asked or self.vm.interrupted:
            raise note_where(KeyboardInterrupt(), self.debugger)
        return event

    def _examine(self, stop: Stop) -> Examination:
        """Every check on a stop, made once; what they read of memory is noted, so that a snapshot
        keeps it."""
        seen = self._seen(stop)
        if seen is None:
            kernel = Kernel(stop._replace(memory=RecordingMemory(stop.memory)))
            self._examined = seen = examine(kernel.stop, kernel, self.clock)
        return seen

    def _seen(self, stop: Stop) -> Examination | None:
        """What was found at this very stop, None where it was not examined."""
        seen = self._examined
        if seen is None:
            return None
        before = seen.kernel.stop
        known = before.epoch, before.reason, bool(before.cpus)
        return seen if known == (stop.epoch, stop.reason, bool(stop.cpus)) else None

    def _in_handler(self, stop: Stop) -> Stop | None:
        """The page-fault handler said that it gives up (`--faults fatal`): the stop, explained
        from inside it, when it is the kernel's own fault; one of ring 3 is recorded."""
        reason = stop.reason._replace(kind="handler")
        seen = self._examine(stop._replace(reason=reason))
        if any(f.effective_severity == "error" and f.code.kind == "event" for f in seen.findings):
            return seen.kernel.stop
        self._record(seen)
        return None

    def _audit(self, stop: Stop) -> None:
        """Examine the stop at a marker on the way, and keep what was found; what leaked since the
        last one at the same marker too."""
        seen = self._examine(stop)
        marker, number = self._marker(stop), len(self.recorded)
        then = self.accounts.get(marker)
        self.accounts[marker], leaked, result = growth.since(then, seen.kernel, number)
        checks = seen.checks if result is None else (*seen.checks, result)
        findings = (*seen.findings, *leaked)
        self._record(Examination(seen.kernel, findings, checks, seen.took), handled=True)

    def _marker(self, stop: Stop) -> str:
        """What --audit-every found in the line, without its numbers: a round's is the next one's
        too."""
        found = re.search(self.orders.audit_every or "", stop.reason.text)
        return re.sub(r"[0-9]+", "", found[0] if found is not None else "")

    def _record(self, seen: Examination, *, handled: bool = False) -> None:
        number, adapter = len(self.recorded), seen.kernel.adapter
        self.took += times_of(seen, number)
        checks = tuple(shown_check(c, number) for c in seen.checks)
        findings = tuple((f, shown_finding(f, number, adapter)) for f in seen.findings)
        stop = shown_stop(stop_summary(seen.kernel), number)
        self.recorded.append(Recorded(stop, findings, checks, adapter, handled))

    def passes_fault(self, fault: Fault, points: Sequence[Point]) -> bool:
        """Whether to pass it at once: benign, or one of very many. A recorded one ends the run
        for a moment (`_decides` is False). A fault of ring 3 proves that the kernel survived the
        one before."""
        event = event_of(fault)
        self.mending.arrived(event)
        user = of_ring3(fault)
        if user:
            self._survived()
        if self.debugger.benign_faults.known(fault) or (user and self._many()):
            self.benign += 1
            return True
        if event is not None and not user and self.mending.known(event):
            self.benign += 1
            return True
        seen = self._examine(self.debugger.stop(fault.reason))
        if any(f.code.name == "page-fault.handled" for f in seen.findings):
            self.benign += 1
            return True
        if user and not self.orders.first_fault:
            self._record(seen)
            self._decides = False
        elif event is not None and not user:
            self._decides = not self._waits(event, seen)
        return False

    def _waits(self, event: Event, seen: Examination) -> bool:
        """Whether it is waited for what the kernel does about a fault of its own: of a kernel whose
        adapter does not say which of them it lives on."""
        last = self.recorded[-1].event if self.recorded else None
        if last is not None and self.mending.is_endless(event) and key_of(last) == key_of(event):
            self.recorded.pop()  # it had returned, and had mended nothing
        if seen.kernel.is_breenix or not self.mending.may_return(event):
            return False
        if not may_be_mended(seen.findings):
            return False
        self.mending.wait_for(event, self._kept(seen.kernel.stop))
        return True

    def _many(self) -> bool:
        return not self.orders.first_fault and len(self.recorded) >= RECORDED_FAULTS

    def _survived(self) -> None:
        for one in self.recorded:
            one.handled = True

    # The end ---------------------------------------------------------------------------------

    def conclude(self, end: RunEnd) -> Ended:
        """The stop that decides the run, examined, and what the run was. Raises `LinkError`."""
        stop, ended = end.stop, end.ended
        if ended == "exit" and self._wanted_exit(stop):
            self._survived()
            ended = "marker"
        if ended == "handler":
            ended = "fault"
        config = self.vm.config
        status = stop.reason.exit_status
        facts = RunFacts(
            ended=ended,
            until=end.awaited,
            timeout=self.orders.timeout,
            exit_status=status,
            exit_meaning=config.outcome(status) if config and status is not None else "",
            stuck=end.stuck,
            resets=self.vm.resets,
            faults=len(self.recorded) + (ended == "fault"),
        )
        record = RunRecord(
            seconds=stop.seconds,
            agent_stops=self.vm.agent_stops,
            markers=tuple(Marker(m.text, m.seconds) for m in self.vm.console.markers),
            benign_faults=self.benign,
            armed=self.vm.arming.state,
            succeeded=self.succeeded,
            watched=self.watched,
            counted=config is None or config.settings.deterministic,
            interrupts=self._interrupts(),
        )
        seen = self._examine(stop)
        took = (*self.took, *times_of(seen, len(self.recorded)))
        return Ended(seen, facts, self._with_interrupts(self.history(), seen.kernel), record, took)

    def _interrupts(self) -> Interrupts | None:
        check = self.debugger.interrupts
        if check is None:
            return None
        tallies = check.tallies.values()
        returns, changed = sum(t.returns for t in tallies), sum(t.changed for t in tallies)
        return Interrupts(check.entries, returns, changed, check.stops)

    def _with_interrupts(self, history: History, kernel: Kernel) -> History:
        """The history with what became of registers over interrupts, told at the deciding stop."""
        check = self.debugger.interrupts
        if check is None:
            return history
        number, tallies = len(self.recorded), tuple(check.tallies.values())
        found = (shown_finding(f, number, kernel.adapter) for f in registers.found(kernel, tallies))
        came = shown_check(registers.result(tallies, check.lacking), number)
        return replace(
            history,
            findings=(*history.findings, *found),
            checks=(*history.checks, came),
        )

    def _wanted_exit(self, stop: Stop) -> bool:
        config, status = self.vm.config, stop.reason.exit_status
        return (
            self.orders.until is None
            and config is not None
            and status is not None
            and config.outcome(status) == "success"
        )

    def _is_stuck(self, stop: Stop) -> tuple[Stop, bool]:
        """Look again a few times: the same CPUs in ring 0 with interrupts off at each look, all
        others at rest, and no serial text in between, is no progress. A look at which one of the
        others is awake, as an idle CPU is at each tick, tells nothing."""
        stay = {cpu.index for cpu in stop.cpus}
        looks = 0
        for _ in range(MOST_LOOKS):
            off = {c.index for c in stop.cpus if c.arch.interrupts_off(c)}
            stay &= off
            rest = {c.index for c in stop.cpus if c.halted and c.cpl == 0}
            if not stay:
                return stop, False
            looks += {c.index for c in stop.cpus} <= off | rest
            if looks > STUCK_LOOKS:
                return stop, True
            said = len(stop.serial.chunks)
            stop = self.debugger.stop(self._moved((), STUCK_SECONDS).reason)
            if stop.reason.kind != "deadline" or len(stop.serial.chunks) != said:
                return stop, False
        return stop, False

    def history(self) -> History:
        """Recorded faults in the document's form, those that were survived as handled."""
        findings: list[ShownFinding] = []
        for number, one in enumerate(self.recorded):
            for finding, shown in one.findings:
                if one.handled and not self.orders.strict:
                    how = one.mended or "the kernel went on after it"
                    survived = (as_mended if one.mended else as_handled)(finding, how)
                    if survived is not finding:
                        shown = shown_finding(survived, number, one.adapter)
                findings.append(shown)
        return History(
            tuple(r.stop for r in self.recorded),
            tuple(findings),
            tuple(c for r in self.recorded for c in r.checks),
        )


def _errors(seen: Examination) -> set[str]:
    return {f.fingerprint for f in seen.findings if f.effective_severity == "error"}


FIRMWARE_SPINS = "the firmware caught an exception, and its handler does not return"
GAVE_UP = "after the last fault the kernel halts for ever"


def _any(patterns: Sequence[str], stop: Stop) -> bool:
    """Whether the line that the guest was stopped at matches one of `patterns`."""
    return any(re.search(p, stop.reason.text) for p in patterns)


def _dead(stop: Stop) -> bool:
    """Whether every CPU halts with interrupts off: nothing will wake one."""
    return bool(stop.cpus) and all(cpu.dead for cpu in stop.cpus)


def run_to_stop(vm: LiveVm, image: Image | None, orders: Orders) -> Kernel:
    """The kernel that a command looks at, of a guest that we boot: at the end of its run."""
    run = GuardedRun(Debugger(vm, image), orders)
    run.start()
    return run.to_stop()
