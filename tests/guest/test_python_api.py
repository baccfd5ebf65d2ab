"""``import breenix_gdbagent as ba``: every example in its docstrings runs, and its names are those
that it promises."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import breenix_gdbagent as ba
from breenix_gdbagent.api import stops, vm
from breenix_gdbagent.errors import LinkError
from tests.guest.live_support import ELF, beside, needs_qemu

pytestmark = needs_qemu


@pytest.mark.parametrize("module", [stops, vm], ids=lambda m: m.__name__)
def test_examples_run(module: ModuleType, tmp_path: Path) -> None:
    """`snapshot`, in the examples, is a file of the lab guest's guard-page scenario."""
    snapshot = tmp_path / "guard-page.snapshot"
    if module is stops:
        with ba.launch(lab="guard-page") as guest:
            guest.run()
            guest.save(snapshot)
    failed, tried = doctest.testmod(module, extraglobs={"snapshot": snapshot})
    assert tried > 5
    assert failed == 0


def test_the_readmes_example_runs() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    failed, tried = doctest.testfile(str(readme), module_relative=False)
    assert tried >= 2
    assert failed == 0


def test_every_promised_name_is_there() -> None:
    for name in ba.__all__:
        assert getattr(ba, name) is not None
    assert set(ba.__all__) <= set(dir(ba))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(ba, "nonsense")  # noqa: B009  (as a user would meet it)


def test_importing_it_brings_nothing_along() -> None:
    """The package's own import is what every command pays."""
    told = subprocess.run(
        [sys.executable, "-c", "import breenix_gdbagent, sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ours = [name for name in told.stdout.split() if name.startswith("breenix_gdbagent.")]
    assert ours == ["breenix_gdbagent.version"]


def test_steps_and_points() -> None:
    with ba.launch("clean", deterministic=True) as vm:
        twice = vm.breakpoint("syscall_entry", count=2)
        first = vm.run_until("syscall_entry")
        assert twice.hits == 1
        second = vm.run()
        assert vm.event is not None and vm.event.points == (twice,)
        assert second.seconds > first.seconds
        vm.delete(twice)
        assert vm.points == ()
        vm.run_until("kernel::interrupts::handlers::syscall")
        caller = vm.backtrace().frames[1]
        assert vm.finish().cpu.rip == caller.pc
        assert vm.event.returned is None or vm.event.returned == vm.value("rax")
        here = vm.stop.cpu.rip
        assert vm.next().cpu.rip != here


def test_mistakes_are_typed() -> None:
    with ba.launch("clean") as vm:
        for wrong in (
            lambda: vm.breakpoint("zork"),
            lambda: vm.breakpoint("syscall_entry", condition="1 +"),
            lambda: vm.breakpoint("syscall_entry", condition="nothing.of_that_name == 1"),
            lambda: vm.invariant("zork", "syscall_entry"),
            lambda: vm.walk(0x1000),  # paging is off
            lambda: vm.value("zork"),
            lambda: vm.backtrace(cpu=7),
        ):
            with pytest.raises(ba.AgentError):
                wrong()
    vm.close()
    for wrong in (vm.run, vm.step, lambda: vm.breakpoint("syscall_entry"), lambda: vm.send("x")):
        with pytest.raises(LinkError):
            wrong()
    with pytest.raises(ba.AgentError, match="no guest named"):
        ba.launch()
    with pytest.raises(ba.AgentError):
        ba.launch("clean", image="other.img")
    with pytest.raises(ba.AgentError):
        ba.open_snapshot("there-is-no-such-file")


def test_an_invariant_stops_where_it_breaks() -> None:
    with ba.launch("kernel-stack-unmapped", deterministic=True) as vm:
        point = vm.invariant("kernel-stacks", "syscall_entry")
        vm.run()
        assert vm.event is not None and vm.event.points == (point,)
        assert "kernel-stacks is violated" in vm.event.notes[0]
        assert "kernel-stack.unmapped" in {f.code.name for f in vm.examine().findings}


def test_a_guest_that_runs_already_is_left_as_it_was(tmp_path: Path) -> None:
    with beside(tmp_path, "hang") as qemu:
        with ba.attach(qemu.gdb, qmp=qemu.qmp, ram=qemu.ram, kernel=ELF) as vm:
            stop = vm.run_until("timer_interrupt_entry", seconds=20)
            assert vm.kernel.symbol(stop.cpu.rip) == "timer_interrupt_entry"
            vm.breakpoint("timer_interrupt_entry")
        with ba.attach(qemu.gdb, qmp=qemu.qmp, ram=qemu.ram, kernel=ELF) as vm:
            assert vm.points == ()
            assert vm.run(seconds=0.3).reason.kind == "deadline"


# (expression, value where process 2 enters its first system call)
TYPED: tuple[tuple[str, object], ...] = (
    ("pid", 2),
    ("tid", 3),
    ("ring", 0),
    ("cpu", 0),
    ("process.name", "clock_gettime_test"),
    ("process.name == 'clock_gettime_test' and pid == 2", True),
    ("thread.name", "clock_gettime_test"),
    ("thread.privilege", "User"),
    ("thread.state", "Running"),
    ("SCHEDULER.current_thread", 3),
    ("SCHEDULER.threads[1].id + SCHEDULER.threads[2].id", 5),
    ("SCHEDULER.threads[0].owner_pid", None),
    ("SCHEDULER.threads[2].owner_pid == pid", True),
    ("kernel::task::scheduler::SCHEDULER.idle_thread", 1),
    ("thread.kernel_stack_top == u64[gs_base + 16]", True),
    ("rip == &syscall_entry", True),
    ("&SCHEDULER.threads == 0", False),
    ("kernel::task::thread::Thread@u64[gs_base + 8].id", 3),
    ("u64[rsp + 8] & 3", 3),  # CS of ring 3, pushed by the CPU
)


def test_typed_values() -> None:
    with ba.launch("clean") as vm:
        vm.run_until("syscall_entry", process="clock_gettime_test")
        assert {text: vm.value(text) for text, _ in TYPED} == dict(TYPED)
        for wrong in ("SCHEDULER.zork", "SCHEDULER.threads[99]", "thread + 1", "zork::ZORK"):
            with pytest.raises(ba.AgentError):
                vm.value(wrong)
