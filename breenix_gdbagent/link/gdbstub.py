"""QEMU's gdbstub under control: breakpoints with a ledger, run, step, interrupt, leave."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from breenix_gdbagent.errors import LinkError, LinkTimeout, StubError
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.rsplink import RspLink
from breenix_gdbagent.link.stopreply import StopReply
from breenix_gdbagent.link.stubreader import ANSWER_SECONDS, RunState, StubReader, Thread

__all__ = ["Break", "GdbStub", "RunState", "StopReply", "Thread"]

LEAVE_SECONDS = 1.0

_KINDS = {"software": 0, "hardware": 1, "write": 2, "read": 3, "access": 4}


class Break(NamedTuple):
    """A breakpoint (``software``, ``hardware``) or watchpoint (``write``, ``read``, ``access``)
    at a virtual address, `length` bytes long."""

    kind: str
    address: int
    length: int = 1

    def packet(self, *, insert: bool) -> bytes:
        """The Z or z packet."""
        letter = "Z" if insert else "z"
        return f"{letter}{_KINDS[self.kind]},{self.address:x},{self.length:x}".encode()


class GdbStub(StubReader):
    """A connection to one stub, with control of the guest.

    As a context manager, leaving it removes every breakpoint of ours, turns physical mode off
    and leaves the guest stopped; `close(resume=True)` lets it run.
    """

    def __init__(self, link: RspLink, *, seconds: float = ANSWER_SECONDS) -> None:
        super().__init__(link, seconds=seconds)
        self.breaks: set[Break] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Breakpoints ---------------------------------------------------------------------------

    def insert(self, *breaks: Break) -> None:
        """Insert what is not in yet. Raises `StubError` (no more of that kind)."""
        self._change([b for b in breaks if b not in self.breaks], insert=True)

    def remove(self, *breaks: Break) -> None:
        """Remove what is in."""
        self._change([b for b in breaks if b in self.breaks], insert=False)

    def _change(self, breaks: Sequence[Break], *, insert: bool) -> None:
        if breaks:
            packets = [b.packet(insert=insert) for b in breaks]
            self._changed(breaks, self.ask(*packets), insert=insert)

    def _changed(self, breaks: Sequence[Break], answers: Iterable[bytes], *, insert: bool) -> None:
        """Keep the ledger true to what the stub said, also when it refused one of several."""
        refused: LinkError | None = None
        for one, answer in zip(breaks, answers, strict=True):
            try:
                self._ok(one.packet(insert=insert), answer)
            except LinkError as error:
                refused = error
                continue
            if insert:
                self.breaks.add(one)
            else:
                self.breaks.discard(one)
        if refused is not None:
            raise refused

    # Running -------------------------------------------------------------------------------

    def cont(self, *, insert: Sequence[Break] = (), remove: Sequence[Break] = ()) -> None:
        """Let all vCPUs run, after `remove` and `insert`, all in one write."""
        self._run("c", None, insert, remove)

    def step(
        self,
        thread: str | None = None,
        *,
        insert: Sequence[Break] = (),
        remove: Sequence[Break] = (),
    ) -> None:
        """One instruction of `thread` (None: the selected one); the others stand still.

        Interrupts and timers are held off meanwhile unless `set_single_step` says otherwise.
        The stop reply comes by `wait`.
        """
        self._run("s", thread, insert, remove)

    def _run(
        self,
        action: str,
        thread: str | None,
        insert: Sequence[Break],
        remove: Sequence[Break],
    ) -> None:
        if self.state is RunState.SHUTDOWN:
            raise LinkError(
                "the guest has shut down and cannot go on",
                "QEMU answers no continue in that state",
                "reset it (QMP system_reset) or start it again",
            )
        if self.state is RunState.RUNNING:
            raise LinkError("the guest is running already")
        insert = [b for b in insert if b not in self.breaks]
        remove = [b for b in remove if b in self.breaks]
        packets = [b.packet(insert=False) for b in remove]
        packets += [b.packet(insert=True) for b in insert]
        resume = action
        if action in self.actions:
            resume = f"vCont;{action}" + (f":{thread}" if thread else "")
        answers = self.link.ask(packets, self.seconds, then=resume.encode())
        self.state = RunState.RUNNING
        self._changed(remove, answers[: len(remove)], insert=False)
        self._changed(insert, answers[len(remove) :], insert=True)

    def interrupt(self) -> None:
        """Ask a running guest to stop; the stop reply comes by `wait`. Else nothing."""
        if self.state is RunState.RUNNING:
            self.link.interrupt()

    def wait(self, deadline: Deadline, wake: Sequence[socket.socket] = ()) -> StopReply | None:
        """The stop; None when the deadline passed or a `wake` socket is readable first.

        Raises `LinkClosed` (QEMU has ended), `LinkProtocolError`.
        """
        payload = self.link.wait_stop(deadline, wake)
        return None if payload is None else self._stopped(payload)

    def halt(self, seconds: float | None = None) -> StopReply | None:
        """Interrupt and wait; None when it stood still already. Raises `LinkTimeout`."""
        if self.state is not RunState.RUNNING:
            return None
        seconds = self.seconds if seconds is None else seconds
        self.interrupt()
        stop = self.wait(Deadline(seconds))
        if stop is None:
            raise LinkTimeout("an interrupt", seconds, "is QEMU itself stopped?")
        return stop

    def set_single_step(self, *, interrupts: bool, timers: bool) -> None:
        """What a single step lets through (``Qqemu.sstep``; bits by ``qqemu.sstepbits``)."""
        bits = dict(
            pair.split("=")
            for pair in self.ask(b"qqemu.sstepbits")[0].decode("latin-1").split(",")
            if "=" in pair
        )
        value = int(bits.get("ENABLE", "1"), 16)
        value |= 0 if interrupts else int(bits.get("NOIRQ", "2"), 16)
        value |= 0 if timers else int(bits.get("NOTIMER", "4"), 16)
        request = b"Qqemu.sstep=%x" % value
        self._ok(request, self.ask(request)[0])

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
        self.state = RunState.CLOSED
        return clean

    def _leave(self, resume: bool) -> bool:
        if self.state is RunState.RUNNING:
            if resume and not self.breaks:
                return True
            self.halt(LEAVE_SECONDS)
        packets = [b.packet(insert=False) for b in self.breaks]
        if self._physical is not None:
            packets.append(b"Qqemu.PhyMemMode:0")
        if resume and self.state is RunState.HALTED:
            packets.append(b"D")
        answers = self.link.ask(packets, LEAVE_SECONDS)
        self.breaks.clear()
        return all(answer == b"OK" for answer in answers)
