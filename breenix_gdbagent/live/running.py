"""A guest that is let run and stopped: the steps that run control is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.gdbstub import Break
from breenix_gdbagent.link.stopreply import SIGTRAP, StopReply
from breenix_gdbagent.live.arming import Arming
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.guest import Guest, Holds
from breenix_gdbagent.live.resets import Resets
from breenix_gdbagent.stop import StopReason

STEP_SECONDS = 2.0
LOOK_SECONDS = 0.005


class Running(Guest):
    """What moves a guest on by one instruction or one stop. `live.vm.LiveVm` makes runs of it.

    `registers` are those of the CPU that stopped last, `watched` the kind and address of the
    watchpoint that stopped it; `when_armed` is called, with the guest standing still, after the
    arming has learnt something (the load bias, the gates).
    """

    _arming: Arming
    _resets: Resets

    def __init__(self, holds: Holds, clock: RunClock) -> None:
        super().__init__(holds, clock)
        self.agent_stops = 0
        self.users: set[Break] = set()
        self.registers: Mapping[str, int] = {}
        self.watched: tuple[str, int] | None = None
        self.when_armed: Callable[[], None] = lambda: None
        self._at: tuple[str, Break] | None = None
        self._pending: StopReply | None = None
        self._quick = False
        self._looked = 0.0
        self._consumed: dict[int, int] = {}
        # TCG ignores breakpoints while it single-steps (QEMU accel/tcg/cpu-exec.c,
        # check_for_breakpoints), so that the one under our feet may stay in.
        self._steps_through = _is_tcg(holds)

    def stand_on(self, address: int) -> None:
        """A breakpoint of the user's is put in where the guest stands: to go on is not to hit it.

        Where faults are caught it is hit: that stop may not have been told yet.
        """
        one = next((b for b in self.users if b.address == address and b.kind == "hardware"), None)
        if one is not None and self._at is None and address not in self._arming.addresses:
            thread = self.stub.last_stop.thread if self.stub.last_stop is not None else None
            self._at = (thread or "01", one)

    def pass_over_text(self) -> None:
        """Whole lines that came so far are no match for the patterns of the next run."""
        if self._holds.serial is not None:
            self._holds.serial.sync()
            for port, characters in self._holds.serial.unfinished.items():
                self._consumed[port] = max(self._consumed.get(port, 0), characters)

    def _go(self) -> None:
        """Run on, over the breakpoint that the last stop was at. A stop on the way is pending."""
        at, self._at = self._at, None
        if at is None:
            self._count_run()
            self.stub.cont()
            return
        thread, one = at
        reply = self._single_step(thread, one)
        if reply.signal != SIGTRAP:
            self._pending = reply
            return
        self._count_run()
        wanted = self._wanted(one)
        self.stub.cont(insert=[one] if wanted else [], remove=[] if wanted else [one])

    def _single_step(self, thread: str, over: Break | None) -> StopReply:
        """One instruction, not stopped by the breakpoint `over` that it stands on. Where the
        instruction does not end (``hlt``), the guest is stopped again."""
        self._count_run()
        out = [over] if over is not None and not self._steps_through else []
        self.stub.step(thread, remove=out)
        reply = self.stub.wait(Deadline(STEP_SECONDS)) or self.stub.halt()
        self.clock.halt()
        assert reply is not None
        return reply

    def step_over(self, thread: str, one: Break) -> None:
        """One instruction at a breakpoint, which stays in."""
        self._at = None
        reply = self._single_step(thread, one)
        if reply.signal != SIGTRAP:
            self._pending = reply
        self.stub.insert(one)

    def _wanted(self, one: Break) -> bool:
        return one in self.users or one.address in self._arming.addresses

    def _count_run(self) -> None:
        self.epoch += 1
        self.clock.run()
        if self._holds.qmp is not None:
            self._holds.qmp.rest()

    def _note_halt(self) -> None:
        self.clock.halt()
        self.agent_stops += 1
        if self._holds.serial is not None:
            self._holds.serial.sync()

    def _stopped(self, reply: StopReply) -> StopReason | None:
        """What a stop means; None when it was one of the arming's own."""
        self._note_halt()
        self.watched = reply.watch
        if reply.shutdown:
            return None if self._resets.by_firmware() else StopReason("shutdown", reply.cpu)
        if reply.signal != SIGTRAP:
            return StopReason("interrupt", reply.cpu, text="paused from outside")
        thread = reply.thread or "01"
        self._look(thread)
        if reply.watch is not None:
            kind, address = reply.watch
            return StopReason("breakpoint", reply.cpu, text=f"{kind} of {hex64(address)}")
        rip = self.registers.get("rip", 0)
        one = next(
            (
                b
                for b in self.stub.breaks
                if b.address == rip and b.kind in ("hardware", "software")
            ),
            None,
        )
        self._at = (thread, one) if one is not None else None
        return self._arming.on_trap(thread, reply.cpu, rip)

    def _look(self, thread: str) -> None:
        """Registers of the CPU that stopped, and the IDT as it is now, in one round trip. Stops at
        breakpoints that are passed look at the IDT every `LOOK_SECONDS` of the guest's."""
        requests = [b"Hg" + thread.encode(), b"g"]
        table = self._arming.table_request()
        now = self.clock.seconds()
        quick = self._quick and 0 <= now - self._looked < LOOK_SECONDS
        self._quick = False
        if table is not None and not quick:
            self._looked = now
            requests.append(b"m%x,%x" % table)
        answers = self.stub.ask(*requests)
        self.registers = self.stub.decode_registers(answers[1])
        if len(answers) > 2:
            self._arming.refresh(self.stub.decode_memory(answers[2]))
        elif table is not None and self.registers.get("rip") not in {b.address for b in self.users}:
            self._arming.refresh(self.stub.decode_memory(self.stub.ask(b"m%x,%x" % table)[0]))


def _is_tcg(holds: Holds) -> bool:
    """Whether QEMU translates the guest's code; an attached one is asked (Linux has KVM only)."""
    if holds.config is not None:
        return holds.config.settings.accel == "tcg"
    if holds.qmp is None or sys.platform != "linux":
        return False
    answer = holds.qmp.execute("query-kvm")
    return isinstance(answer, dict) and answer.get("enabled") is False
