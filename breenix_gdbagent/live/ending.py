"""Why a guest stopped that hit no breakpoint: it shut down, was reset, panicked, or was paused.

By what QEMU says, not by its version: the reason of its SHUTDOWN event, its run state, its exit
status and its stderr.
"""

from __future__ import annotations

from contextlib import suppress

from breenix_gdbagent.errors import LinkClosed, QemuGaveUp
from breenix_gdbagent.link.gdbstub import RunState
from breenix_gdbagent.link.stopreply import STATES, StopReply
from breenix_gdbagent.live.guest import DYING_SECONDS, Guest
from breenix_gdbagent.live.resets import Resets
from breenix_gdbagent.stop import StopReason

DRAIN_SECONDS = 5.0
QUIT_SECONDS = 20.0

BEFORE_US = "it happened before we attached, and QEMU does not say which"
TOLD_PANIC = "the guest told QEMU that it panicked"
UNTOLD_SHUTDOWN = "without --qmp QEMU does not say which"


class Ending(Guest):
    """What can be said of a guest that has come to an end; `live.running.Running` moves it."""

    _resets: Resets
    _steps_through: bool

    def _shut_down(self, reply: StopReply) -> StopReason | None:
        """What a shutdown is by QEMU's own word; None for one that is dealt with. A triple fault is
        a reset to QEMU: those two are told apart by what the CPU was at."""
        qmp = self._holds.qmp
        said = "" if qmp is None else qmp.shutdown_reason()
        if said == "guest-shutdown":
            return self._switched_off(reply)
        if said == "guest-panic":
            return StopReason("panic", reply.cpu, text=TOLD_PANIC)
        if said.startswith("host-"):
            return StopReason("interrupt", reply.cpu, text=f"reset from outside: {said}")
        if self._resets.by_firmware():
            return None
        text = "" if said else UNTOLD_SHUTDOWN
        return StopReason("shutdown", reply.cpu, text=text, resets=self._resets.count)

    def found_at(self) -> StopReason:
        """Why a guest that we attached to is stopped, by QEMU's run state: it may have ended
        before. Raises `LinkError`."""
        if self._holds.qmp is None or self.stub.state is not RunState.SHUTDOWN:
            return StopReason("attached")
        match self._holds.qmp.status():
            case "shutdown":
                return StopReason("shutdown", text=BEFORE_US)
            case "guest-panicked":
                return StopReason("panic", text=TOLD_PANIC)
        return StopReason("attached")

    def _switched_off(self, reply: StopReply) -> StopReason:
        """The guest ended the run: by ACPI, or in later QEMUs by isa-debug-exit too. QEMU waits
        (``-action shutdown=pause``), and the status comes with its end. A QEMU of somebody else's
        is left waiting."""
        process, qmp = self._holds.process, self._holds.qmp
        if process is None or qmp is None:
            return StopReason("exit", reply.cpu, text="the guest switched the machine off")
        self.memory()
        self._at_exit = self._cpus(True)
        with suppress(LinkClosed):
            qmp.execute("quit")
        process.exited.wait(QUIT_SECONDS)
        return self._ended(LinkClosed("QEMU does not end when told to"), reply.cpu, by_guest=True)

    def _paused(self, reply: StopReply) -> StopReason:
        """What a stop is that no breakpoint made. Raises `QemuGaveUp`."""
        qmp, process = self._holds.qmp, self._holds.process
        state = STATES.get(reply.signal, "") if qmp is None else qmp.status()
        if state in ("internal-error", "io-error"):
            stderr = "" if process is None else process.stderr()
            raise QemuGaveUp(state, stderr, self._instead(state))
        if state == "guest-panicked":
            return StopReason("panic", reply.cpu, text=TOLD_PANIC)
        if state == "watchdog":
            return StopReason("interrupt", reply.cpu, text="stopped by its watchdog device")
        return StopReason("interrupt", reply.cpu, text="paused from outside")

    def _instead(self, state: str) -> str:
        """What to do about a QEMU that gave up."""
        if state == "io-error":
            return "make room on the disk of its images and of TMPDIR"
        if self._steps_through:
            return "try another version of QEMU"
        if self._holds.process is None:
            return "start QEMU with -accel tcg"
        return "boot it with --accel tcg"

    def _ended(self, error: LinkClosed, cpu: int = 0, *, by_guest: bool = False) -> StopReason:
        """QEMU has ended: by the guest's wish, which is known (`by_guest`) or seen in the status,
        or `QemuDied`."""
        self.clock.stop()
        self.stub.has_ended()
        process = self._holds.process
        if self._holds.serial is not None and process is not None:
            process.exited.wait(DYING_SECONDS)
            self._holds.serial.drain(DRAIN_SECONDS)
        if process is None:
            return StopReason("exit", cpu, text=error.what)
        died = process.died(DYING_SECONDS)
        if died is None:
            raise error
        status = died.status
        failed = status == 1 and died.stderr.strip() and not by_guest
        if status is None or status < 0 or failed:
            raise died from error
        return StopReason("exit", cpu, exit_status=status)
