"""How a live guest is moved, on a stub that does as it is told: breakpoints, steps, refusals."""

from __future__ import annotations

import pytest

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import (
    BreakpointRefused,
    LinkClosed,
    ResumeRefused,
    StateError,
    StopGone,
)
from breenix_gdbagent.link.gdbstub import RunState
from tests.unit.debugger.fakeguest import START, TRAP, FakeGuest, live, written


def test_a_run_goes_over_the_breakpoint_that_it_stopped_at() -> None:
    fake = FakeGuest([(TRAP, 0x2000), (TRAP, 0x3000)])
    with live(fake) as vm:
        vm.insert(0x2000)
        assert fake.moves == []
        assert vm.run().kind == "breakpoint"
        assert vm.registers["rip"] == 0x2000
        vm.run()
        assert fake.moves == [
            b"Z1,2000,1", b"vCont;c", b"z1,2000,1", b"vCont;s:01", b"Z1,2000,1", b"vCont;c",
        ]  # fmt: skip


def test_one_put_in_where_the_guest_stands_is_hit_the_next_time() -> None:
    fake = FakeGuest([(TRAP, START)])
    with live(fake) as vm:
        vm.insert(START)
        vm.run()
        assert fake.moves == [
            b"Z1,8000001000,1", b"z1,8000001000,1", b"vCont;s:01", b"Z1,8000001000,1", b"vCont;c",
        ]  # fmt: skip


def test_a_step_of_one_cpu_leaves_the_other_at_its_breakpoint() -> None:
    fake = FakeGuest([(TRAP, 0x2000), (TRAP, 0x3000)], threads=2)
    with live(fake) as vm:
        vm.insert(0x2000)
        vm.run()
        assert vm.step(1).kind == "step"
        assert vm.registers_of(1)["rip"] == START + 1 and vm.registers_of(0)["rip"] == 0x2000
        vm.run()
        assert fake.moves[-4:] == [b"z1,2000,1", b"vCont;s:01", b"Z1,2000,1", b"vCont;c"]


def test_a_step_that_lands_on_a_breakpoint_or_triggers_a_watchpoint_says_so() -> None:
    fake = FakeGuest(steps=[0x2000, 0x2002])
    with live(fake) as vm:
        vm.insert(0x2000)
        assert vm.step().kind == "breakpoint"
        assert vm.step().kind == "step"


def test_a_refused_run_leaves_the_stop_what_it_was() -> None:
    fake = FakeGuest([(b"E22", 0), (b"T03thread:01;", 0x2000)])
    with live(fake) as vm:
        stop = vm.stop()
        with pytest.raises(ResumeRefused, match="did not run"):
            vm.run()
        assert vm.stub.state is RunState.STOPPED and vm.epoch == stop.epoch
        assert len(stop.memory.read(PhysAddr(0x1000), 16)) == 16
        assert vm.run().kind == "shutdown"
        over = vm.stop()
        for move in (vm.run, vm.cont, vm.step):
            with pytest.raises(StateError, match="cannot go on"):
                move()
        assert vm.epoch == over.epoch and vm.registers["rip"] == 0x2000
        assert len(over.memory.read(PhysAddr(0x1000), 16)) == 16
        with pytest.raises(StopGone):
            stop.memory.read(PhysAddr(0x1000), 16)


def test_a_refused_breakpoint_is_told_before_anything_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeGuest([(TRAP, 0x2000)])
    scripted = fake._override
    fake._override = lambda p: b"E16" if p == b"Z1,3000,1" else scripted(p)
    with live(fake) as vm:
        one = vm.insert(0x3000)
        stop = vm.stop()
        with pytest.raises(BreakpointRefused, match="has not moved") as raised:
            vm.run()
        assert (raised.value.address, raised.value.number) == (0x3000, 0x16)
        assert vm.epoch == stop.epoch and b"vCont;c" not in fake.moves
        vm.remove(one)
        assert vm.run().kind == "breakpoint"


def test_what_changes_while_it_runs_holds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeGuest([None, None])
    with live(fake) as vm:
        vm.cont()
        writes = written(monkeypatch)
        vm.insert(0x2000)
        assert vm.running and fake.breaks == {b"1,2000,1"} and fake.interrupts == 1
        assert [b"Z1" in w for w in writes] == [False, True, False, False]
        with pytest.raises(StateError, match="running"):
            vm.stub.registers()
        vm.interrupt()
        assert not vm.running


def test_a_guest_that_is_gone_takes_no_breakpoint() -> None:
    fake = FakeGuest()
    with live(fake) as vm:
        vm.stub.has_ended()
        with pytest.raises(LinkClosed):
            vm.insert(0x2000)
        assert vm.registers == {}


def test_leaving_takes_everything_out() -> None:
    fake = FakeGuest([(TRAP, 0x2000)])
    with live(fake) as vm:
        vm.insert(0x2000)
        vm.insert(0x9000, "write", 8)
        vm.run()
        assert len(fake.breaks) == 2
    assert fake.breaks == set()
