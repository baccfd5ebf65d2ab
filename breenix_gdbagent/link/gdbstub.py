"""QEMU's gdbstub under control: breakpoints by the ledger, run, step, interrupt, leave."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from breenix_gdbagent.errors import LinkError, LinkTimeout, ResumeRefused, StubError
from breenix_gdbagent.link.breakpoints import Break, Ledger, Refused
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.rsplink import RspLink
from breenix_gdbagent.link.stopreply import StopReply
from breenix_gdbagent.link.stubreader import ANSWER_SECONDS, StubReader, Thread
from breenix_gdbagent.link.stubstate import RunState, require

__all__ = ["Break", "GdbStub", "RunState", "StopReply", "Thread"]

LEAVE_SECONDS = 1.0

class GdbStub(StubReader):
    """A connection to one stub, with control of the guest.

    As a context manager, leaving it removes every breakpoint of ours, turns physical mode off
    and leaves the guest stopped; `close(resume=True)` lets it run.
    """

    def __init__(self, link: RspLink, *, seconds: float = ANSWER_SECONDS) -> None:
        super().__init__(link, seconds=seconds)
        self.ledger = Ledger()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    # Breakpoints ---------------------------------------------------------------------------

    @require(RunState.STOPPED, RunState.SHUTDOWN)
    def flush(self) -> list[Refused]:
        """Have the guest as the ledger wants it, in one write; nothing is sent where it is so.

        What the stub refuses to put in is returned, and stays wanted. Raises `StubError` for what
        it does not take out.
        """
        gone, new = self.ledger.changes()
        if not gone and not new:
            return []
        packets = [one.packet(insert=False) for one in gone]
        packets += [one.packet(insert=True) for one in new]
        answers = self.ask(*packets)
        refused = []
        for one, answer in zip(new, answers[len(gone) :], strict=True):
            number = self._inserted(one, answer)
            if number is not None:
                refused.append(Refused(one, number))
        self._removed(gone, answers[: len(gone)])
        return refused

    def _inserted(self, one: Break, answer: bytes) -> int | None:
        """Note what an insertion came to: None, or the stub's error number (0: not known)."""
        try:
            self._ok(one.packet(insert=True), answer)
        except StubError as error:
            return error.number
        except LinkError:
            return 0
        self.ledger.was_inserted(one)
        return None

    def _removed(self, gone: Sequence[Break], answers: Sequence[bytes]) -> None:
        """Note what removals came to; the first that was refused is raised at the end."""
        failed: LinkError | None = None
        for one, answer in zip(gone, answers, strict=True):
            try:
                self._ok(one.packet(insert=False), answer)
            except LinkError as error:
                failed = failed or error
            else:
                self.ledger.was_removed(one)
        if failed is not None:
            raise failed

    # Running -------------------------------------------------------------------------------

    def cont(self) -> None:
        """Let all vCPUs run, with the breakpoints that the ledger has."""
        self._resume("c", None)

    def step(self, thread: str | None = None, *, without: Break | None = None) -> None:
        """One instruction of `thread` (None: the selected one); the others stand still.

        A breakpoint `without` which the instruction is to be stepped is taken out for it, and
        comes back before the guest moves again. Interrupts and timers are held off meanwhile
        (QEMU's default for ``Qqemu.sstep``). The stop reply comes by `wait`.
        """
        self._resume("s", thread, without)

    @require(RunState.STOPPED)
    def _resume(self, action: str, thread: str | None, without: Break | None = None) -> None:
        """Flush, and let it go on. A refused breakpoint is raised as `StubError`: nothing has
        moved then."""
        for refused in self.flush():
            raise StubError(refused.one.packet(insert=True).decode(), refused.number)
        lifted = [without] if without is not None and without in self.ledger.inserted else []
        resume = action
        if action in self.actions:
            resume = f"vCont;{action}" + (f":{thread}" if thread else "")
        packets = [one.packet(insert=False) for one in lifted]
        answers = self.link.ask(packets, self.seconds, then=resume.encode())
        self._set_state(RunState.RUNNING)
        self._removed(lifted, answers)

    def interrupt(self) -> None:
        """Ask a running guest to stop; the stop reply comes by `wait`. Else nothing."""
        if self.state is RunState.RUNNING:
            self.link.interrupt()

    def wait(self, deadline: Deadline, wake: Sequence[socket.socket] = ()) -> StopReply | None:
        """The stop; None when the deadline passed or a `wake` socket is readable first.

        Raises `LinkClosed` (QEMU has ended), `LinkProtocolError`; `ResumeRefused` when the stub
        would not let it run: it is still stopped then.
        """
        try:
            payload = self.link.wait_stop(deadline, wake)
        except ResumeRefused:
            self._set_state(RunState.STOPPED)
            raise
        return None if payload is None else self._stopped(payload)

    def interrupt_and_wait(self, seconds: float | None = None) -> StopReply | None:
        """Interrupt and wait; None when it was stopped already. Raises `LinkTimeout`."""
        if self.state is not RunState.RUNNING:
            return None
        seconds = self.seconds if seconds is None else seconds
        self.interrupt()
        stop = self.wait(Deadline(seconds))
        if stop is None:
            raise LinkTimeout("an interrupt", seconds, "is QEMU itself stopped?")
        return stop

    # Leaving -------------------------------------------------------------------------------

    def close(self, *, resume: bool = False) -> bool:
        """Remove all breakpoints, turn physical mode off, and leave the guest stopped or running.

        Returns whether the stub confirmed all of it within a second; never raises: the
        connection ends either way.
        """
        clean = False
        if not self.link.closed:
            with suppress(LinkError, StubError):
                clean = self._leave(resume)
        self.link.close()
        self._set_state(RunState.CLOSED)
        return clean

    def _leave(self, resume: bool) -> bool:
        if self.state is RunState.RUNNING:
            if resume and not self.ledger.inserted:
                return True
            self.interrupt_and_wait(LEAVE_SECONDS)
        packets = [one.packet(insert=False) for one in self.ledger.inserted]
        if self._physical is not None:
            packets.append(b"Qqemu.PhyMemMode:0")
        if resume and self.state is RunState.STOPPED:
            packets.append(b"D")
        answers = self.link.ask(packets, LEAVE_SECONDS)
        self.ledger.inserted.clear()
        return all(answer == b"OK" for answer in answers)
