"""What a stop is that no breakpoint made, over a stub and a monitor that are made up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from breenix_gdbagent.errors import LinkError, QemuDied, QemuGaveUp
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.live.guest import Holds
from breenix_gdbagent.live.vm import LiveVm
from breenix_gdbagent.memory import RamMap, RamRange
from breenix_gdbagent.stop import StopReason
from tests.unit.link.fakestub import FakeStub

KVM = """\
qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.01H:ECX.pni [bit 0]
KVM internal error. Suberror: 1
extra data[0]: 0x0000000000000001
emulation failure
RAX=0000000000003031 RBX=00000000000003e8 RCX=0000000000000400 RDX=0000000000000000
"""


class Monitor:
    """QEMU's monitor; told to quit, it ends the process with `status`."""

    passes_files = False
    guest_resets = 0

    def __init__(self, process: Process | None, state: str, reason: str) -> None:
        self.process, self.state, self.reason = process, state, reason
        self.asked: list[str] = []
        self.wake, self.waker = socket.socketpair()

    def execute(self, command: str, *_: object) -> object:
        self.asked.append(command)
        if command == "quit" and self.process is not None:
            self.process.exited.set()
        return {"enabled": True}

    def status(self) -> str:
        return self.state

    def shutdown_reason(self) -> str:
        return self.reason

    def hmp(self, line: str) -> str:
        return ""

    def events(self) -> list[object]:
        return []

    def rest(self) -> None: ...

    def close(self) -> None: ...


class Process:
    """A QEMU of ours that ends with `status` when it is told to."""

    def __init__(self, status: int, stderr: str = "") -> None:
        self.pid = 0
        self.status, self._stderr = status, stderr
        self.exited = threading.Event()

    def stderr(self) -> str:
        return self._stderr

    def died(self, seconds: float) -> QemuDied | None:
        return QemuDied(self.status, self._stderr) if self.exited.is_set() else None

    def kill(self) -> None: ...

    def close(self) -> None: ...


@contextmanager
def guest(
    signal: int, state: str = "shutdown", reason: str = "", process: Process | None = None,
    *, qmp: bool = True,
) -> Iterator[tuple[LiveVm, Monitor]]:  # fmt: skip
    """A guest which stops with `signal` when it is let run, in a QEMU whose monitor says `state`
    and that it shut down for `reason`."""
    fake = FakeStub(
        lambda p: b"T%02xthread:01;" % signal if p.startswith(b"vCont;c") else NotImplemented
    )
    monitor = Monitor(process, state, reason)
    holds: dict[str, Any] = {"process": process, "qmp": monitor if qmp else None}
    ram = RamMap((RamRange(0, 0x1000, 0),))
    try:
        yield LiveVm(Holds(stub=fake.connect(), ram_map=ram, **holds), RunClock()), monitor
    finally:
        fake.close()


@pytest.mark.parametrize("status", [33, 35, 0, 1])
def test_a_qemu_that_waits_is_told_to_end_and_its_status_is_the_guests(status: int) -> None:
    """1 too, whatever QEMU has warned of: the guest wrote 0 to isa-debug-exit."""
    with guest(3, reason="guest-shutdown", process=Process(status, "a warning")) as (vm, monitor):
        assert vm.run([], 5) == StopReason("exit", exit_status=status)
        assert "quit" in monitor.asked and vm.exited
        stop = vm.stop()
        assert [cpu.rip for cpu in stop.cpus] == [0x8000001000]


def test_somebody_elses_qemu_is_not_ended() -> None:
    with guest(3, reason="guest-shutdown") as (vm, monitor):
        reason = vm.run([], 5)
        assert (reason.kind, reason.exit_status) == ("exit", None)
        assert "switched the machine off" in reason.text
        assert "quit" not in monitor.asked and not vm.exited


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("guest-reset", StopReason("shutdown")),
        ("guest-panic", StopReason("panic", text="the guest told QEMU that it panicked")),
        (
            "host-qmp-system-reset",
            StopReason("interrupt", text="reset from outside: host-qmp-system-reset"),
        ),
    ],
)
def test_other_shutdowns_are_what_qemu_says(reason: str, told: StopReason) -> None:
    with guest(3, reason=reason, process=Process(0)) as (vm, monitor):
        assert vm.run([], 5) == told
        assert "quit" not in monitor.asked


def test_without_a_monitor_a_shutdown_is_not_told_apart() -> None:
    with guest(3, qmp=False) as (vm, _):
        assert vm.run([], 5) == StopReason("shutdown", text="without --qmp QEMU does not say which")


def test_an_internal_error_is_qemus_and_no_finding() -> None:
    with guest(6, "internal-error", process=Process(0, KVM)) as (vm, _):
        with pytest.raises(QemuGaveUp) as gave_up:
            vm.run([], 5)
        assert str(gave_up.value).splitlines() == [
            "QEMU stopped the guest by an error of its own: internal-error",
            "KVM internal error. Suberror: 1, emulation failure",
            "boot it with --accel tcg",
        ]
        assert vm.stop().cpus
        with pytest.raises(LinkError, match="QEMU gave up on it"):
            vm.cont()


@pytest.mark.parametrize(("signal", "state"), [(6, "internal-error"), (29, "io-error")])
@pytest.mark.parametrize("qmp", [True, False])
def test_it_is_named_where_its_stderr_is_not_ours(signal: int, state: str, qmp: bool) -> None:
    with guest(signal, state, qmp=qmp) as (vm, _):
        with pytest.raises(QemuGaveUp, match=state) as gave_up:
            vm.run([], 5)
        assert gave_up.value.why == "QEMU's own stderr says why"


@pytest.mark.parametrize(
    ("signal", "state", "told"),
    [
        (2, "paused", StopReason("interrupt", text="paused from outside")),
        (14, "watchdog", StopReason("interrupt", text="stopped by its watchdog device")),
        (0x8F, "guest-panicked", StopReason("panic", text="the guest told QEMU that it panicked")),
    ],
)
def test_other_pauses(signal: int, state: str, told: StopReason) -> None:
    with guest(signal, state) as (vm, _):
        assert vm.run([], 5) == told
