"""Letting a guest run and stopping it: single runs, steps and interrupts, under all run control."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import (
    BreakpointRefused,
    LinkError,
    ResumeRefused,
    StateError,
    StubError,
)
from breenix_gdbagent.link.breakpoints import Break, Ledger
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.gdbstub import RunState
from breenix_gdbagent.link.stopreply import SIGINT, SIGQUIT, SIGTRAP, StopReply
from breenix_gdbagent.live.catching import FAULTS, Catching
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.ending import Ending
from breenix_gdbagent.live.guest import Holds
from breenix_gdbagent.stop import StopReason

OBSERVER = "observer"
"""The owner, in the ledger, of breakpoints that only look: `Running.observer` is told, and the
guest goes on."""

STEP_SECONDS = 2.0
LOOK_SECONDS = 0.005

_OUT = (b"\xe6", b"\xe7", b"\xee", b"\xef", b"\x6e", b"\x6f")
_PREFIXES = b"\x66\xf2\xf3"
"""Opcodes of OUT and OUTS (SDM volume 2), and what may stand before one."""


class Running(Ending):
    """What moves a guest on by one instruction or one stop. `live.vm.LiveVm` makes runs of it.

    `watched` is the kind and address of the watchpoint that stopped it last; `when_armed` is
    called, with the guest stopped, after the arming has learnt something (the load bias,
    the gates).
    """

    arming: Catching

    def __init__(self, holds: Holds, clock: RunClock) -> None:
        super().__init__(holds, clock)
        self.agent_stops = 0
        self.watched: tuple[str, int] | None = None
        self.when_armed: Callable[[], None] = lambda: None
        self.observer: Callable[[Mapping[str, int]], None] | None = None
        self._only_observed = False
        self._registers: dict[str, Mapping[str, int]] = {}
        # The breakpoint that a CPU is stopped at and has been told of, by the stub's thread id.
        self._at: dict[str, Break] = {}
        self._before_move: tuple[int, dict[str, Break]] = (0, {})
        self._pending: StopReply | None = None
        self._quick = False
        self._looked = 0.0
        self._outs: dict[int, bool] = {}
        # TCG ignores breakpoints while it single-steps (QEMU accel/tcg/cpu-exec.c,
        # check_for_breakpoints), so that the one under our feet may stay in.
        self._steps_through = _is_tcg(holds)

    @property
    def ledger(self) -> Ledger:
        """Break- and watchpoints: who wants which. Sent to the guest just before it moves."""
        return self.stub.ledger

    # Registers of a stop -------------------------------------------------------------------

    @property
    def stopped_cpu(self) -> int:
        """Index of the CPU that the last stop was about."""
        return 0 if self.stub.last_stop is None else self.stub.last_stop.cpu

    @property
    def registers(self) -> Mapping[str, int]:
        """Registers of the CPU that the last stop was about; {} while it runs or is gone."""
        return self.registers_of(self.stopped_cpu)

    def pc(self, cpu: int | None = None) -> int | None:
        """The program counter of a CPU (None: of the one that the last stop was about)."""
        found = self.registers_of(self.stopped_cpu if cpu is None else cpu)
        return found.get(self.arch.names.pc)

    def registers_of(self, cpu: int) -> Mapping[str, int]:
        """Registers of a CPU, asked for once a stop. Raises `LinkError`."""
        if self.running or self.exited:
            return {}
        thread = _thread(cpu)
        if thread not in self._registers:
            with self._uncut():
                answers = self.stub.ask(b"Hg" + thread.encode(), *self.stub.register_requests)
                self._registers[thread] = self.stub.decode_registers(answers[1:])
        return self._registers[thread]

    def was_changed(self) -> None:
        """Somebody has written registers or memory of the stopped guest: nothing that was read
        before holds any more."""
        self.epoch += 1
        self._registers.clear()

    def write_register(self, cpu: int, name: str, value: int) -> None:
        """Set a register of a CPU of the stopped guest. Raises `LinkError`."""
        with self._uncut():
            self.stub.ask(b"Hg" + _thread(cpu).encode())
            self.stub.write_register(name, value)
        self.was_changed()

    def write_memory(self, cpu: int, va: int, data: bytes) -> None:
        """Write virtual memory as a CPU of the stopped guest sees it, whatever the rights of its
        pages. Raises `LinkError`."""
        with self._uncut():
            self.stub.ask(b"Hg" + _thread(cpu).encode())
            self.stub.write(va, data)
        self.was_changed()

    # Moving --------------------------------------------------------------------------------

    def _go(self) -> None:
        """Run on, over the breakpoints that CPUs are stopped at. A stop on the way is pending."""
        self.stub.need(RunState.STOPPED)
        self._flush()
        for thread in [thread for thread in self._at if self._stands_on(thread) is not None]:
            reply = self._single_step(thread)
            if reply.signal != SIGTRAP or reply.watch is not None:
                self._pending = reply
                return
        self._flush()
        self._move(self.stub.cont)
        self._at.clear()

    def _stands_on(self, thread: str) -> Break | None:
        """The breakpoint that a CPU is stopped at, if it has not been sent elsewhere since."""
        one = self._at.get(thread)
        if one is None or self.pc(int(thread, 16) - 1) != one.address:
            return None
        return one

    def _flush(self) -> None:
        """Send what has changed in the ledger. A breakpoint that comes where a CPU stands already
        is not hit by going on, as in gdb; where faults are caught it is: that stop may not have
        been told yet. Raises `StubError` for one of the user's that is refused."""
        gone, new = self.ledger.changes()
        if not gone and not new:
            return
        ours = [one for one in new if one.is_code and FAULTS not in self.ledger.owners(one)]
        refused = self.stub.flush()
        self.arming.refused([r for r in refused if self.ledger.owners(r.one) == (FAULTS,)])
        for one, number in refused:
            if one in self.ledger.changes()[1]:
                raise BreakpointRefused(one.kind, one.address, number)
        if ours:
            rip = self.pc()
            for one in ours:
                if one.address == rip:
                    self._at[_thread(self.stopped_cpu)] = one

    def _single_step(self, thread: str) -> StopReply:
        """One instruction, not stopped by the breakpoint that the CPU stands on. Where the
        instruction does not end (``hlt``), the guest is stopped again."""
        over = None if self._steps_through else self._stands_on(thread)
        cpu = int(thread, 16) - 1
        rip = self.pc(cpu)
        writes_port = self._writes_port(rip)
        self._move(lambda: self.stub.step(thread, without=over))
        self._at.pop(thread, None)
        try:
            reply = self.stub.wait(Deadline(STEP_SECONDS))
        except ResumeRefused:
            self._not_moved()
            raise
        if reply is None:
            reply = self.stub.interrupt_and_wait()
            assert reply is not None
            if reply.signal == SIGINT:
                reply = reply._replace(signal=SIGTRAP)  # by us: it stands behind the instruction
        self.clock.stop()
        if writes_port and self._holds.qmp is not None and self._holds.qmp.shutdown_reason():
            # It asked for a shutdown, and QEMU, which was stopped for the step, forgets about it.
            self.stub.found_over()
            return reply._replace(signal=SIGQUIT)
        if rip is not None and reply.signal == SIGTRAP and self.arming.stepped(cpu, rip):
            self.when_armed()
        return reply

    def _writes_port(self, rip: int | None) -> bool:
        """Whether the instruction at `rip` is one of the OUT family."""
        if rip is None or self._holds.qmp is None:
            return False
        if rip not in self._outs:
            code = self.read_or_none(rip, 2) or b""
            self._outs[rip] = code.lstrip(_PREFIXES)[:1] in _OUT
        return self._outs[rip]

    def step_over(self, thread: str) -> None:
        """One instruction at a breakpoint, which stays in."""
        reply = self._single_step(thread)
        if reply.signal != SIGTRAP or reply.watch is not None:
            self._pending = reply

    def _move(self, move: Callable[[], None]) -> None:
        """Let the guest move. What is refused before anything has moved leaves the stop as it
        was."""
        try:
            move()
        except (StateError, StubError):
            raise
        except LinkError:
            self._count_move()
            raise
        self._count_move()

    def _count_move(self) -> None:
        self._before_move = self.epoch, dict(self._at)
        self.epoch += 1
        self._registers.clear()
        self.clock.run()
        if self._holds.qmp is not None and not self._resets.untold:
            self._holds.qmp.rest()

    def _not_moved(self) -> None:
        """The last move was refused: the stop is what it was before."""
        self.epoch, self._at = self._before_move
        self.clock.stop()

    def _has_stopped(self) -> None:
        self.clock.stop()
        self.agent_stops += 1
        self.console.sync()

    # Stops ---------------------------------------------------------------------------------

    def _stopped(self, reply: StopReply, *, stepped: bool = False) -> StopReason | None:
        """What a stop means; None when it was one of the arming's own, whose instruction is then
        behind it, or for a step (`stepped`) that has come to it before it."""
        self._has_stopped()
        self.watched = reply.watch
        if reply.shutdown:
            return self._shut_down(reply)
        if reply.signal != SIGTRAP:
            return self._paused(reply)
        thread = _thread(reply.cpu)
        rip = self._look(thread).get(self.arch.names.pc, 0)
        if reply.watch is not None:
            kind, address = reply.watch
            return StopReason("breakpoint", reply.cpu, text=f"{kind} of {hex64(address)}")
        one = self.ledger.code_at(rip)
        if one is not None:
            self._at[thread] = one
        if self.observer is not None:
            self.observer(self.registers_of(reply.cpu))
        self._only_observed = one is not None and self.ledger.owners(one) == (OBSERVER,)
        if self._only_observed:
            self._quick = True
            return None
        if stepped and self.arming.awaits(rip):
            return None
        return self.arming.on_trap(thread, reply.cpu, rip)

    def _look(self, thread: str) -> Mapping[str, int]:
        """Registers of the CPU that stopped, and the IDT as it is now, in one round trip. Stops at
        breakpoints that are passed look at the IDT every `LOOK_SECONDS` of the guest's."""
        requests = [b"Hg" + thread.encode(), *self.stub.register_requests]
        told = len(requests)
        table = self.arming.table_request()
        now = self.clock.seconds()
        quick = self._quick and 0 <= now - self._looked < LOOK_SECONDS
        self._quick = False
        if table is not None and not quick:
            self._looked = now
            requests.append(b"m%x,%x" % table)
        answers = self.stub.ask(*requests)
        found = self._registers[thread] = self.stub.decode_registers(answers[1:told])
        if len(answers) > told:
            self.arming.refresh(self.stub.decode_memory(answers[told]))
        elif table is not None and not self._is_users(found.get(self.arch.names.pc, 0)):
            self.arming.refresh(self.stub.decode_memory(self.stub.ask(b"m%x,%x" % table)[0]))
        return found

    def _is_users(self, address: int) -> bool:
        """Whether somebody besides the catching of faults has a breakpoint there."""
        owners = self.ledger.owners(Break("hardware", address))
        return any(owner != FAULTS for owner in owners)


def _thread(cpu: int) -> str:
    """The stub's id of a vCPU (QEMU gdbstub/system.c, gdb_get_cpu_index)."""
    return f"{cpu + 1:02x}"


def _is_tcg(holds: Holds) -> bool:
    """Whether QEMU translates the guest's code; an attached one is asked (Linux has KVM only)."""
    if holds.config is not None:
        return holds.config.settings.accel == "tcg"
    if holds.qmp is None or sys.platform != "linux":
        return False
    answer = holds.qmp.execute("query-kvm")
    return isinstance(answer, dict) and answer.get("enabled") is False
