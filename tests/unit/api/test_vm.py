"""Python's API without QEMU: what runs returns the stop, points count, misuse is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import breenix_gdbagent as ba
from breenix_gdbagent.debugger.arbiter import Arbiter
from breenix_gdbagent.errors import InputError, LinkError
from tests.unit.debugger.fakeguest import START, TRAP, FakeGuest, debugged


@pytest.fixture
def vm() -> Iterator[ba.Vm]:
    fake = FakeGuest([(TRAP, 0x2000), (TRAP, 0x3000), None], steps=[START + 1, 0x2000])
    with debugged(fake) as debugger:
        yield ba.Vm(Arbiter(debugger))


def test_runs_and_steps_return_the_stop(vm: ba.Vm) -> None:
    assert vm.stop.reason.kind == "attached" and vm.stop.cpu.rip == START
    point = vm.breakpoint(0x2000)
    assert vm.stepi().cpu.rip == START + 1
    assert vm.event is not None and vm.event.points == ()
    stop = vm.stepi(5)
    assert (stop.reason.kind, stop.cpu.rip, vm.event.points) == ("breakpoint", 0x2000, (point,))
    assert vm.stop is stop
    vm.delete(point)
    assert vm.points == ()


def test_run_until_takes_its_point_out_again(vm: ba.Vm) -> None:
    checkpoint = vm.checkpoint(0x2000, "rip")
    stop = vm.run_until(0x3000)
    assert stop.cpu.rip == 0x3000 and vm.points == (checkpoint,)
    assert [record.text for record in checkpoint.records] == ["0x2000: rip = 0x2000"]


def test_a_run_that_is_over_in_time_is_interrupted(vm: ba.Vm) -> None:
    assert vm.run(seconds=0.05).reason.kind == "deadline"


def test_interrupt_from_outside_ends_a_run(vm: ba.Vm) -> None:
    assert vm.interrupt() is False  # it stands still


def test_misuse_is_told(vm: ba.Vm) -> None:
    with pytest.raises(InputError, match="no symbol is known"):
        vm.breakpoint("syscall_entry")
    with pytest.raises(InputError, match="no check"):
        vm.invariant("nonsense", 0x2000)
    with pytest.raises(InputError, match="no CPU 7"):
        vm.backtrace(7)
    vm.close()
    with pytest.raises(LinkError, match="let go"):
        vm.run()
