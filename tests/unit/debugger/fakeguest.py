"""A guest behind the fake stub that goes where a test says: each continue and each step is the next
line of its script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.link.rsplink import RspLink
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.guest import Holds
from breenix_gdbagent.live.vm import LiveVm
from breenix_gdbagent.memory import RamMap, RamRange
from breenix_gdbagent.symbols import Image
from tests.unit.link.fakestub import REGISTERS, FakeStub

START = 0x8000001000
"""RIP before anything has run (as the fake stub's registers have it)."""

RAM = RamMap((RamRange(PhysAddr(0), PhysAddr(0x10000), 0),))
TRAP = b"T05thread:01;"


class FakeGuest(FakeStub):
    """`runs` are (stop reply, RIP) of each continue to come, None a run without end; `steps` the
    RIPs that single steps lead to. A reply of another form refuses the run, and RIP stays."""

    def __init__(
        self,
        runs: Sequence[tuple[bytes, int] | None] = (),
        steps: Sequence[int] = (),
        threads: int = 1,
    ) -> None:
        self.runs = list(runs)
        self.steps = list(steps)
        self.threads = threads
        self.rip = {n + 1: START for n in range(threads)}
        self.selected = 1
        super().__init__(self._scripted)

    def _scripted(self, payload: bytes) -> object:
        if payload.startswith(b"Hg"):
            self.selected = int(payload[2:], 16) or 1
        if payload == b"g":
            rip = self.rip[self.selected].to_bytes(8, "little")
            return (REGISTERS[:8] + rip + REGISTERS[16:]).hex().encode()
        if payload == b"qfThreadInfo":
            return b"m" + b",".join(b"%02x" % n for n in self.rip)
        if payload.startswith(b"vCont;c") and self.runs:
            run = self.runs.pop(0)
            if run is None:
                return NotImplemented
            reply, rip = run
            if reply[:1] == b"T":
                self.rip[_thread(reply)] = rip
            return reply
        if payload.startswith(b"vCont;s"):
            thread = int(payload.rpartition(b":")[2], 16)
            self.rip[thread] = self.steps.pop(0) if self.steps else self.rip[thread] + 1
            return b"T05thread:%02x;" % thread
        return NotImplemented

    @property
    def moves(self) -> list[bytes]:
        """The packets that move the guest or change its breakpoints, in order."""
        return [p for p in self.seen if p[:1] in b"Zz" or p.startswith(b"vCont;")]


def _thread(reply: bytes) -> int:
    return int(reply.partition(b"thread:")[2].partition(b";")[0], 16)


@contextmanager
def live(fake: FakeGuest) -> Iterator[LiveVm]:
    """The guest as one that we have attached to."""
    vm = LiveVm(Holds(stub=fake.connect(), ram_map=RAM), RunClock())
    fake.seen.clear()
    try:
        yield vm
    finally:
        vm.close()
        fake.close()


@contextmanager
def debugged(
    fake: FakeGuest, image: Image | None = None, said: list[str] | None = None
) -> Iterator[Debugger]:
    """The guest under the debugger; `said` takes what goes on without a stop."""
    with live(fake) as vm:
        yield Debugger(vm, image, (lambda line: None) if said is None else said.append)


def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Everything that is written to a stub from now on, write by write."""
    found: list[bytes] = []
    write = RspLink._write

    def noted(self: RspLink, data: bytes, *more: object) -> None:
        found.append(data)
        write(self, data, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(RspLink, "_write", noted)
    return found
