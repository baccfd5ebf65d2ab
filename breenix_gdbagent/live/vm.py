"""`LiveVm`: a guest that we control; it runs, stops, catches faults, and is left as it was found.
"""

from __future__ import annotations

import atexit
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Self

from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import LinkClosed, LinkError, ResumeRefused
from breenix_gdbagent.link.breakpoints import Break
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.gdbstub import RunState
from breenix_gdbagent.link.stopreply import SIGTRAP
from breenix_gdbagent.live.arming import Arming
from breenix_gdbagent.live.catching import FAULTS, Catching
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.guest import Holds
from breenix_gdbagent.live.resets import Resets
from breenix_gdbagent.live.running import Running
from breenix_gdbagent.live.signals import Interrupts, Termination, Uncut
from breenix_gdbagent.stop import Stop, StopReason

if TYPE_CHECKING:
    from breenix_gdbagent.link.serial import Watch
    from breenix_gdbagent.live.fault import OnFault, OnHit

CALLER = "caller"
"""The owner, in the ledger, of what `LiveVm.insert` puts in."""


class LiveVm(Running):
    """Use as a context manager: leaving it ends a guest that we started, and leaves one that we
    attached to as it was."""

    def __init__(self, holds: Holds, clock: RunClock) -> None:
        super().__init__(holds, clock)
        self.left = ""
        self.arming = self._new_arming()
        self._resets = Resets(lambda: self.arming.armed_at is not None, holds)
        self._waiting: Interrupts | None = None
        self.asked_to_stop = False
        self.interrupted = False
        self._armed_with: tuple[Path | None, tuple[int, ...]] | None = None
        self._termination = Termination()
        # For whoever does not use it as a context manager.
        atexit.register(self.close)

    def __enter__(self) -> Self:
        self._termination.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()
        self._termination.stop()

    # Catching faults -----------------------------------------------------------------------

    def arm(
        self,
        kernel: Path | None = None,
        *,
        panic: Sequence[int] = (),
        bias: int | None = None,
        passing: Collection[int] = (),
    ) -> None:
        """Catch faults as soon as the guest has an IDT of its own (see `live.arming`).

        `kernel` is the kernel's ELF, `panic` link-time addresses of panic handlers, `bias` the
        load bias of a kernel that runs, where it is known; exceptions of the vectors `passing` are
        not caught. Raises `InputError` for an ELF that is none.
        """
        self.arming.passing = frozenset(passing)
        self._armed_with = kernel, tuple(panic)
        self._arm(bias, fresh=bias is None and not self._has_started())

    def _new_arming(self) -> Catching:
        table = self.arch.vector_table
        if table is not None:
            from breenix_gdbagent.live.vectors import VectorArming

            return VectorArming(self, self.clock, table)
        return Arming(self, self.clock, attached=self._holds.process is None)

    def _has_started(self) -> bool:
        """Whether an instruction has run since the last reset. What ran before we attached is seen
        in the CPU: one that was started with -S stands at its reset vector."""
        if self.clock.seconds() > 0 or self.running:
            return True
        first = Cpu(0, self.registers_of(0), arch_name=self.arch.name)
        return self._holds.process is None and not first.at_reset

    def _arm(self, bias: int | None, *, fresh: bool) -> None:
        """`fresh`: the guest has not run its first instruction."""
        assert self._armed_with is not None
        kernel, panic = self._armed_with
        with self._uncut():
            if kernel is not None and fresh:
                # Of a machine that somebody else started it is not known what loads its kernel.
                identity = self.config is None or "kernel" in self.config.needs
                self.arming.before_start(kernel, identity=identity, panics=panic)
            else:
                self.pause_for(lambda: self.arming.now(kernel, bias, panic))
        if self._holds.serial is not None and self._holds.qmp is not None:
            self._holds.serial.wake_on_text = self.arming.polling
        elif self.arming.polling and kernel is None:
            self.arming.notes.append(
                "the guest has no IDT of its own yet, and without --qmp and --serial only a stop "
                "can show that it has: faults before that are not caught"
            )

    def stop(self, reason: StopReason | None = None, *, hidden: bool = True) -> Stop:
        """The guest as it stands now, see `Guest.stop`; faults are caught by what it shows."""
        stop = super().stop(reason, hidden=hidden)
        if stop.cpus and self.stub.state is RunState.STOPPED:
            with self._uncut():
                self.arming.at_stop(stop.cpus)
        return stop

    @property
    def resets(self) -> int:
        """How often the guest has reset itself without being stopped for it."""
        return self._resets.count

    def reset(self) -> None:
        """The machine as after power-on, stopped; breakpoints of the user's stay, and faults
        are caught again as they were. Raises `LinkError`, see `Resets.machine`."""
        with self._uncut():
            self.stub.interrupt_and_wait()
            self._has_stopped()
            self._resets.machine()
            self.ledger.set_wanted(FAULTS, ())
        self.was_changed()
        self._pending = None
        passing = self.arming.passing
        self.arming = self._new_arming()
        if self._armed_with is not None:
            self.arming.passing = passing
            self._arm(None, fresh=True)

    # Run control ---------------------------------------------------------------------------

    def run_until(
        self,
        patterns: Sequence[str] = (),
        deadline: float | None = None,
        on_fault: OnFault | None = None,
        on_hit: OnHit | None = None,
    ) -> Stop:
        """`run`, and the `Stop` there."""
        with self._dying():
            return self.stop(self.run(patterns, deadline, on_fault, on_hit))

    def run(
        self,
        patterns: Sequence[str] = (),
        deadline: float | None = None,
        on_fault: OnFault | None = None,
        on_hit: OnHit | None = None,
    ) -> StopReason:
        """Run until something ends it, and why it did (see `StopReason`).

        `patterns` are looked for in serial text behind what ended the last wait; `deadline` is in
        seconds from now. `on_fault` sees each fault and `on_hit` each break- or watchpoint of the
        user's, and may pass it; without them the first one ends the run. A Ctrl-C that found the
        guest stopped already is kept in `interrupted`. Raises `LinkError`, `QemuDied`,
        `InputError` for a pattern that is none.
        """
        from breenix_gdbagent.live.fault import Fault, Hit

        limit = Deadline(deadline)
        with self._waiting_for(patterns) as (watch, interrupts):
            while True:
                reason = self._to_stop(limit, watch, interrupts)
                if reason.kind == "fault" and on_fault is not None:
                    if not on_fault(Fault(self, reason, self.registers)):
                        return reason
                elif reason.kind == "breakpoint" and on_hit is not None:
                    if not on_hit(Hit(self, reason, self.registers, self.watched)):
                        return reason
                    self._quick = True
                else:
                    return reason
                if self.interrupted:
                    return StopReason("interrupt", reason.cpu)

    def wait(self, deadline: float | None = None, patterns: Sequence[str] = ()) -> StopReason:
        """Wait for a running guest to stop, or stop it: at a match, the deadline or Ctrl-C.

        Raises `LinkError` when it is stopped and nothing would come.
        """
        if not self.running and self._pending is None:
            raise LinkError("the guest stands still, there is nothing to wait for")
        with self._waiting_for(patterns) as (watch, interrupts):
            return self._to_stop(Deadline(deadline), watch, interrupts)

    def ask_to_stop(self) -> None:
        """From another thread: end the wait of the one that runs the guest, as Ctrl-C does. When
        none waits, the next wait ends at once."""
        self.asked_to_stop = True
        waiting = self._waiting
        if waiting is not None:
            waiting.ask()

    @contextmanager
    def _waiting_for(self, patterns: Sequence[str]) -> Iterator[tuple[Watch, Interrupts]]:
        """What may end a wait besides the guest: serial text, and a signal or a request."""
        with (
            self._interrupts() as interrupts,
            self._dying(),
            self.console.watching(patterns) as watch,
        ):
            yield watch, interrupts

    @contextmanager
    def _interrupts(self) -> Iterator[Interrupts]:
        self.interrupted = False
        with Interrupts() as interrupts:
            self._waiting = interrupts
            if self.asked_to_stop:
                interrupts.ask()
            try:
                yield interrupts
            finally:
                self._waiting = None
                if self.asked_to_stop and interrupts.noted == SIGINT:
                    interrupts.noted = 0  # no signal: there is nobody to raise it for
                self.asked_to_stop = False

    def cont(self) -> None:
        """Let it run; `wait` tells what comes of it. Raises `LinkError` after a shutdown."""
        with self._uncut():
            self._go()

    def step(self, cpu: int = 0) -> StopReason:
        """One instruction of one CPU. What it comes to besides is reported as ever: an exception
        that it takes is a ``fault``, a watchpoint that it triggers or a breakpoint of the user's
        that it lands on a ``breakpoint``."""
        thread = f"{cpu + 1:02x}"
        with self._uncut():
            self.stub.need(RunState.STOPPED)
            self._flush()
            try:
                reply = self._single_step(thread)
            except LinkClosed as error:
                return self._ended(error)
            reason = self._stopped(reply, stepped=True)
            if reason is None:
                return StopReason("step", cpu)
            if reason.kind == "breakpoint" and self.watched is None and thread not in self._at:
                return StopReason("step", cpu, text=reason.text)
            return reason

    def interrupt(self) -> StopReason:
        """Stop it now; the reason is another one when it stopped by itself meanwhile."""
        with self._uncut():
            return self._interrupt(StopReason("interrupt"))

    def insert(self, address: int, kind: str = "hardware", length: int = 1) -> Break:
        """A break- or watchpoint of the caller's own (kinds: see `link.breakpoints.Break`)."""
        one = Break(kind, address, length)
        self.change(lambda: self.ledger.want(CALLER, one))
        return one

    def remove(self, one: Break) -> None:
        """Remove one that `insert` gave; where somebody else wants it, it stays for that."""
        self.change(lambda: self.ledger.release(CALLER, one))

    def change(self, action: Callable[[], None]) -> None:
        """Do `action`, which changes the ledger. It holds before the guest moves again: one that
        runs is paused for it. Raises `QemuDied`, `LinkError`."""
        with self._uncut():
            self.stub.need(RunState.STOPPED, RunState.RUNNING, RunState.SHUTDOWN)
            self.pause_for(action)

    def pause_for(self, action: Callable[[], None]) -> None:
        """Do `action` while the guest is stopped, then have it as it was."""
        was_running = self.running
        if was_running:
            reply = self.stub.interrupt_and_wait()
            self._has_stopped()
            if reply is not None and (reply.signal == SIGTRAP or reply.shutdown):
                self._pending = reply
        action()
        if was_running and self._pending is None:
            self._go()

    # The loop ------------------------------------------------------------------------------

    def _to_stop(self, deadline: Deadline, watch: Watch, interrupts: Interrupts) -> StopReason:
        """To the next stop. The instruction under our feet may be the one that ends QEMU."""
        try:
            if not self.running and self._pending is None:
                self._go()
            return self._await(deadline, watch, interrupts)
        except LinkClosed as error:
            return self._ended(error)

    def _await(self, deadline: Deadline, watch: Watch, interrupts: Interrupts) -> StopReason:
        serial = self._holds.serial
        wakes: list[socket.socket] = [interrupts.wake]
        qmp = self._holds.qmp if self._resets.untold else None
        if qmp is not None:
            wakes.append(qmp.wake)
        if serial is not None:
            wakes.append(serial.wake)
        while True:
            try:
                reply, self._pending = self._pending, None
                if reply is None and not interrupts.noted:
                    reply = self.stub.wait(deadline, wakes)
                    interrupts.drain()
            except ResumeRefused:
                self._not_moved()
                raise
            if reply is not None:
                reason = self._stopped(reply)
                if reason is not None:
                    return reason
                if not self._only_observed:
                    self.when_armed()
                self._go()
                continue
            if interrupts.noted:
                reason = self._interrupt(StopReason("interrupt"))
                if interrupts.noted == SIGINT:
                    interrupts.noted = 0
                    self.interrupted = True
                return reason
            found = self.console.matched(watch)
            if found is not None:
                return self._interrupt(StopReason("marker", text=found.line))
            if deadline.passed:
                return self._interrupt(StopReason("deadline"))
            if qmp is not None:
                self._resets.hear()
            self.arming.poll()
            if serial is not None:
                serial.wake_on_text = self.arming.polling and self._holds.qmp is not None

    def _interrupt(self, reason: StopReason) -> StopReason:
        """Stop it for `reason`, unless it has stopped by itself: then for that."""
        try:
            reply = self.stub.interrupt_and_wait()
        except LinkClosed as error:
            return self._ended(error)
        if reply is not None and (reply.signal == SIGTRAP or reply.shutdown):
            return self._stopped(reply) or reason
        self._has_stopped()
        return reason

    # Leaving -------------------------------------------------------------------------------

    def close(self) -> None:
        """End a guest that we started; leave an attached one as it was. Twice does no harm.

        `left` says in words how an attached guest was left where that is not how it was found.
        """
        atexit.unregister(self.close)
        with Uncut():
            self._close()

    def _close(self) -> None:
        holds = self._holds
        if holds.process is not None:
            self.stub.link.close()
            self.stub.has_ended()
            holds.process.kill()
        elif not self.stub.link.closed:
            self._leave()
        if holds.qmp is not None:
            with suppress(LinkError):
                holds.qmp.close()
        if holds.serial is not None:
            holds.serial.close()
        if holds.process is not None:
            holds.process.close()

    def _leave(self) -> None:
        known = self._holds.was_running
        reset = False
        with suppress(LinkError):
            reset = self._resets.put_back()
        clean = self.stub.close(resume=bool(known))
        if reset and known and self._holds.qmp is not None:
            with suppress(LinkError):
                self._holds.qmp.execute("cont")
        if known is None:
            self.left = "left stopped: without QMP we cannot know whether the guest ran before"
        elif not clean:
            self.left = "the gdbstub did not confirm that our breakpoints are removed"
