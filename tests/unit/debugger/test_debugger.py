"""The debugger without QEMU: points on runs and steps, stops made once, one object for all."""

from __future__ import annotations

import argparse
import struct

import pytest

from breenix_gdbagent import lab
from breenix_gdbagent.api.vm import Vm
from breenix_gdbagent.checks import examine as checks
from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.commands.shell.screen import Screen
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.commands.target import Target
from breenix_gdbagent.debugger import guarded_run
from breenix_gdbagent.debugger.arbiter import Arbiter
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
from breenix_gdbagent.debugger.points import Point
from breenix_gdbagent.debugger.stepping import Stepper
from breenix_gdbagent.debugger.user_breakpoints import breakpoint_of, checkpoint_of
from breenix_gdbagent.errors import StateError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live.vm import LiveVm
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.symbols import Image
from tests.unit.debugger.fakeguest import START, TRAP, FakeGuest, debugged, written

HANDLER = 0x8000005000


def add(debugger: Debugger, text: str, *, once: bool = False) -> Point:
    number = debugger.table.number()
    return debugger.add(breakpoint_of(text, debugger.loaded_or_linked, number, once=once))


def test_one_break_before_the_bias_is_known_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeGuest([(TRAP, 0x2000)])
    with debugged(fake, Image.open(lab.elf(stripped=True))) as debugger:
        writes = written(monkeypatch)
        point = add(debugger, "syscall_entry")
        assert writes == []
        debugger.vm.run()
        candidates = len(debugger.table.addresses(point.place))
        assert candidates == 8
        assert [w.count(b"$Z1,") for w in writes if b"$Z" in w] == [candidates]


def test_two_points_at_one_place_are_one_breakpoint_until_the_last_goes() -> None:
    fake = FakeGuest([(TRAP, 0x2000), (TRAP, 0x3000)])
    with debugged(fake) as debugger:
        one, other = add(debugger, "0x2000"), add(debugger, "0x2000")
        assert debugger.go().points == (one, other)
        debugger.remove(one)
        assert debugger.go((), 0.05).reason.kind == "deadline"
        assert fake.breaks == {b"1,2000,1"}
        debugger.remove(other)
        debugger.vm.step()
        assert fake.breaks == set()


def test_points_on_the_way_of_steps() -> None:
    """A false condition, a checkpoint, a temporary breakpoint, one that passes its first hit."""
    said: list[str] = []
    fake = FakeGuest(steps=[START + n for n in (1, 2, 3, 4, 5, 4, 5, 6)])
    with debugged(fake, said=said) as debugger:
        false = add(debugger, f"{START + 1:#x} if rip == 0")
        checkpoint = debugger.add(
            checkpoint_of(f"{START + 2:#x} rip", None, debugger.table.number())
        )
        once = add(debugger, f"{START + 3:#x}", once=True)
        second = add(debugger, f"{START + 5:#x} count 2")
        stepper = Stepper(debugger)
        assert stepper.instruction(60).points == (once,)
        assert once not in list(debugger.table)
        assert (false.hits, checkpoint.hits, once.hits) == (0, 1, 1)
        assert [r.text for r in checkpoint.records] == [f"{START + 2:#x}: rip = {START + 2:#x}"]
        assert len(said) == 1
        assert stepper.instruction(60).points == (second,)
        assert debugger.vm.registers["rip"] == START + 5 and second.hits == 2
        assert stepper.instruction().reason.kind == "step"


def test_a_stop_is_read_once_however_often_it_is_asked_for() -> None:
    fake = FakeGuest([(TRAP, 0x2000)])
    with debugged(fake) as debugger:
        add(debugger, "0x2000")
        event = debugger.go()
        first = debugger.stop(event.reason)
        read = fake.seen.count(b"qfThreadInfo")
        assert debugger.stop(event.reason) is first
        assert debugger.stop(StopReason("interrupt")).reason.kind == "interrupt"
        assert fake.seen.count(b"qfThreadInfo") == read == 1
        debugger.vm.step()
        assert debugger.stop(event.reason).epoch > first.epoch


def armed(debugger: Debugger) -> None:
    """Catch #GP at `HANDLER`, as if the kernel had loaded its IDT."""
    table = bytearray(512)
    table[13 * 16 : 14 * 16] = struct.pack(
        "<HHBBHII", HANDLER & 0xFFFF, 8, 0, 0x8E, HANDLER >> 16 & 0xFFFF, HANDLER >> 32, 0
    )
    debugger.vm.arming.refresh(bytes(table))


def test_the_deciding_stop_is_made_read_and_examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"stop": 0, "examine": 0}
    stop = LiveVm.stop

    def counted_stop(self: LiveVm, *given: object, **more: object) -> object:
        counts["stop"] += 1
        return stop(self, *given, **more)  # type: ignore[arg-type]

    def counted_examine(*given: object) -> object:
        counts["examine"] += 1
        return examine(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(LiveVm, "stop", counted_stop)
    monkeypatch.setattr(guarded_run, "examine", counted_examine)
    fake = FakeGuest([(TRAP, HANDLER)])
    with debugged(fake) as debugger:
        armed(debugger)
        ended = GuardedRun(debugger, Orders(timeout=5)).go()
    assert ended.facts.ended == "fault" and ended.kernel.stop.reason.vector == 13
    assert counts == {"stop": 1, "examine": 1}
    assert fake.seen.count(b"qfThreadInfo") == 1


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Kernel]:
    """The kernels that the first check has looked at, by whatever way it was called."""
    looked: list[Kernel] = []
    name, run = checks.CHECKS[0]

    def check(kernel: Kernel) -> object:
        looked.append(kernel)
        return run(kernel)

    monkeypatch.setattr(checks, "CHECKS", ((name, check), *checks.CHECKS[1:]))
    return looked


@pytest.mark.parametrize(("where", "examined"), [(HANDLER, 1), (0x2000, 0)])
def test_a_command_that_only_looks_examines_no_more_than_the_run_had_to(
    monkeypatch: pytest.MonkeyPatch, where: int, examined: int
) -> None:
    """A fault is examined to know that it decides, and what was read of it is handed on."""
    looked = counted(monkeypatch)
    fake = FakeGuest([(TRAP, where)])
    with debugged(fake) as debugger:
        armed(debugger)
        run = GuardedRun(debugger, Orders(timeout=5))
        run.stop_at("0x2000")
        kernel = run.to_stop()
        assert kernel.stop.reason.kind == ("fault" if examined else "breakpoint")
        assert len(looked) == examined and all(one is kernel for one in looked)
        assert fake.seen.count(b"qfThreadInfo") == 1


def test_a_stop_that_the_shell_shows_and_audits_is_examined_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked = counted(monkeypatch)
    fake = FakeGuest([(TRAP, 0x2000), (TRAP, HANDLER)])
    options = argparse.Namespace(breenix=None, lab=None, kernel=None)
    with debugged(fake) as debugger:
        armed(debugger)
        session = Session(Screen(terminal=False), Target("gdb", options), debugger=debugger)
        session.show = lambda session, event: str(len(session.examine().checks))
        assert session.execute("break 0x2000") == 0
        for examinations in (1, 2):
            session.execute("continue")
            session.execute("audit")
            session.execute("audit")
            assert len(looked) == examinations
    assert capsys.readouterr().out.count("NOT CHECKED mapping") == 4


def test_a_stop_that_python_asks_of_twice_is_examined_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = counted(monkeypatch)
    with debugged(FakeGuest([(TRAP, 0x2000)])) as debugger:
        vm = Vm(Arbiter(debugger))
        vm.breakpoint(0x2000)
        assert vm.examine() is vm.examine()
        vm.run()
        assert vm.examine() is vm.examine()
    assert len(looked) == 2


def control_packets(fake: FakeGuest) -> list[bytes]:
    """All but reads of memory, of which a shell's view needs others than an examination."""
    return [p for p in fake.seen if p[:1] != b"m" and not p.startswith(b"Qqemu.PhyMemMode")]


def by_ci(fake: FakeGuest) -> list[bytes]:
    with debugged(fake) as debugger:
        run = GuardedRun(debugger, Orders(timeout=5))
        run.start()
        armed(debugger)
        run.stop_at("0x2000")
        ended = run.go()
        assert ended.kernel.stop.reason.kind in ("breakpoint", "fault")
        return control_packets(fake)


def by_shell(fake: FakeGuest) -> list[bytes]:
    options = argparse.Namespace(breenix=None, lab=None)
    with debugged(fake) as debugger:
        debugger.start()
        armed(debugger)
        session = Session(Screen(terminal=False), Target("gdb", options), debugger=debugger)
        assert session.execute("break 0x2000") == 0
        assert session.execute("continue") == 0
        assert session.event is not None and session.event.reason.kind in ("breakpoint", "fault")
        return control_packets(fake)


@pytest.mark.parametrize("where", [0x2000, HANDLER], ids=["breakpoint", "fault"])
def test_ci_and_the_shell_send_the_same_packets_for_the_same_stop(where: int) -> None:
    runs = [(TRAP, where)]
    ci, shell = by_ci(FakeGuest(runs)), by_shell(FakeGuest(runs))
    assert ci == shell
    assert ci.count(b"vCont;c") == 1 and b"Z1,2000,1" in ci


def test_a_refused_command_leaves_the_session_its_stop(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeGuest([(b"T03thread:01;", 0x2000)])
    with debugged(fake) as debugger:
        options = argparse.Namespace(breenix=None, lab=None)
        session = Session(Screen(terminal=False), Target("gdb", options), debugger=debugger)
        session.execute("continue")
        kernel, stops = session.kernel, session.arbiter and session.arbiter.stops
        with pytest.raises(StateError):
            debugger.go()
        assert session.execute("continue") == 3
        assert session.kernel is kernel and session.arbiter and session.arbiter.stops == stops
        assert len(kernel.stop.memory.read(0, 8)) == 8  # type: ignore[arg-type]
    assert "cannot go on" in capsys.readouterr().err
