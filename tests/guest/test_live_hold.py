"""The hold on a QEMU of ours: started, killed, stopped, refused, and never left over."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from breenix_gdbagent.errors import (
    InputError,
    LinkTimeout,
    OutputError,
    QemuDied,
    QemuMissing,
)
from breenix_gdbagent.link.rundir import PREFIX
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.live.catching import FAULTS
from breenix_gdbagent.live.fault import Fault
from breenix_gdbagent.live.vm import CALLER
from tests.guest.live_support import DONE, ELF, lab, needs_qemu

pytestmark = needs_qemu


def ended(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends in time, waited for by its descriptor."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)


def qemu_of(vm: LiveVm) -> int:
    process = vm._holds.process
    assert process is not None
    return process.pid


AGENT = """
import sys
from collections.abc import Iterator
from pathlib import Path
from tests.guest.live_support import ELF, lab
vm = lab(sys.argv[1], places=[Path(sys.argv[2])])
process = vm._holds.process
print(process.pid, process.run._janitor.pid, flush=True)
vm.arm(ELF)
vm.cont()
print("running", flush=True)
if sys.argv[3] == "wait":
    vm.wait()
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd on this system")
@pytest.mark.parametrize("moment", ["started", "running"])
def test_sigkill_of_the_agent_leaves_no_qemu_and_no_directory(moment: str, tmp_path: Path) -> None:
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, "hang", str(tmp_path), "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert agent.stdout is not None
    pids = [int(pid) for pid in agent.stdout.readline().split()]
    if moment == "running":
        assert agent.stdout.readline() == b"running\n"
    assert list(tmp_path.glob(f"{PREFIX}*"))
    agent.kill()
    agent.communicate()
    assert all(ended(pid) for pid in pids)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_in_the_caller_ends_qemu_and_removes_everything(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lab("hang", places=[tmp_path]) as vm:
        pid = qemu_of(vm)
        vm.cont()
        raise ZeroDivisionError
    assert ended(pid, 0)
    assert list(tmp_path.iterdir()) == []


def test_the_run_directory_is_private_and_nothing_listens(tmp_path: Path) -> None:
    with lab(places=[tmp_path]) as vm:
        (room,) = tmp_path.iterdir()
        assert room.stat().st_mode & 0o777 == 0o700
        pid = qemu_of(vm)
        inodes = {
            link.removeprefix("socket:[").rstrip("]")
            for fd in Path(f"/proc/{pid}/fd").iterdir()
            if (link := str(fd.readlink())).startswith("socket:")
        }
        for table in ("tcp", "tcp6"):
            rows = [r.split() for r in Path("/proc/net", table).read_text().splitlines()[1:]]
            assert not [r for r in rows if r[9] in inodes]
        paths = Path("/proc/net/unix").read_text().splitlines()[1:]
        assert not [r for r in paths if r.split()[6] in inodes and len(r.split()) > 7]


def test_ctrl_c_stops_the_guest_and_not_the_agent() -> None:
    with lab("hang") as vm:
        vm.arm(ELF)
        vm.run_until(["Kernel initialization complete!"], 20)
        never = threading.Event()

        def press() -> None:
            while not vm.running:
                never.wait(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press, daemon=True).start()
        stop = vm.run_until([DONE], 20)
        assert stop.reason.kind == "interrupt"
        assert stop.cpu.root is not None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_of_the_agent_leaves_nothing(tmp_path: Path) -> None:
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, "hang", str(tmp_path), "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert agent.stdout is not None
    pids = [int(pid) for pid in agent.stdout.readline().split()]
    assert agent.stdout.readline() == b"running\n"
    agent.send_signal(signal.SIGTERM)
    agent.communicate(timeout=20)
    assert all(ended(pid) for pid in pids)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_qemu_is_a_timeout_that_says_what_was_asked(tmp_path: Path) -> None:
    with lab("clean", places=[tmp_path]) as vm:
        vm.arm(ELF)
        vm.run_until([DONE], 20)
        vm.stub.seconds = 0.3
        os.kill(qemu_of(vm), signal.SIGSTOP)
        with pytest.raises(LinkTimeout) as raised:
            vm.read(0x8000000000, 16)
        assert raised.value.request == "'m8000000000,10'"
        os.kill(qemu_of(vm), signal.SIGCONT)
        vm.stub.seconds = 5
        # The late answer is not taken for this one's.
        assert vm.read(0x8000000001, 3) == b"ELF"
        os.kill(qemu_of(vm), signal.SIGSTOP)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["reading", "running", "stopping", "stepping"])
def test_qemu_killed_in_the_middle_is_told_as_its_end(when: str, tmp_path: Path) -> None:
    with lab("clean", places=[tmp_path]) as vm:
        vm.arm(ELF)
        vm.run_until([DONE], 20)
        pid = qemu_of(vm)
        if when == "running":
            vm.cont()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(QemuDied) as raised:
            if when == "reading":
                vm.read(0x8000000000, 16)
            elif when == "running":
                vm.run_until([], 20)
            elif when == "stopping":
                vm.stop()
            else:
                vm.step()
        assert raised.value.status == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_what_qemu_says_is_part_of_the_error(tmp_path: Path) -> None:
    with pytest.raises(QemuDied) as raised:
        lab(places=[tmp_path], arguments=("-device", "no-such-device"))
    assert "no-such-device" in raised.value.stderr
    assert "no-such-device" in str(raised.value)
    assert raised.value.status == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_settings_are_found_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no size"):
        lab(places=[tmp_path], memory="plenty")
    with pytest.raises(OutputError, match="no room"):
        lab(places=[tmp_path], memory="800000G")
    assert list(tmp_path.iterdir()) == []


def test_no_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QemuMissing, match="apt install"):
        lab()


def test_the_same_memory_by_every_way(tmp_path: Path) -> None:
    from breenix_gdbagent.link.memory import ProcessMemory, StubMemory
    from breenix_gdbagent.memory import PhysicalMemory

    def pages(memory: PhysicalMemory) -> dict[int, bytes]:
        out = {}
        for pa, piece in memory.filled():
            data = bytes(piece)
            for at in range(0, len(data), 4096):
                if data.count(0, at, at + 4096) != 4096:
                    out[pa + at] = data[at : at + 4096]
        return out

    with lab("clean", memory="64M") as vm:
        vm.run_until([DONE], 20)
        by_file = vm.memory()
        ram = by_file.ram
        qmp = vm._holds.qmp
        assert ram is not None and qmp is not None
        by_process = ProcessMemory.open(qemu_of(vm), ram, qmp.hmp)
        by_stub = StubMemory(vm.stub, ram)
        wanted = pages(by_file)
        assert len(wanted) > 100
        assert pages(by_stub) == wanted
        if sys.platform == "linux":
            assert by_process is not None
            assert pages(by_process) == wanted
        assert vm.stub.ask(b"qqemu.PhyMemMode") == [b"0"]


def test_a_step_into_an_exception_is_a_fault() -> None:
    with lab("page-fault-unmapped") as vm:
        vm.arm(ELF)
        faults: list[int] = []

        def on_fault(fault: Fault) -> bool:
            faults.append(fault.registers["cr2"])
            return False

        stop = vm.run_until([DONE], 20, on_fault)
        # The frame's RIP is the instruction that faulted: going there again faults again.
        frame = vm.read(stop.cpu.rsp, 48)
        vm.stub.write_register("rip", int.from_bytes(frame[8:16], "little"))
        vm.stub.write_register("rsp", int.from_bytes(frame[32:40], "little"))
        vm.was_changed()
        reason = vm.step()
        assert (reason.kind, reason.vector) == ("fault", 14)
        assert vm.stop().cpu.registers["cr2"] == faults[0]


def test_breakpoints_of_the_user_and_watchpoints() -> None:
    with lab("clean") as vm:
        vm.arm(ELF)
        stop = vm.run_until(["Kernel initialization complete!"], 20)
        here = vm.insert(stop.cpu.rip)
        vm.remove(here)
        # gs:8, the running thread, is written at every switch of threads.
        pointer = stop.cpu.registers["gs_base"] + 8
        watch = vm.insert(pointer, "write", 8)
        reason = vm.run_until([DONE], 20).reason
        assert reason.kind == "breakpoint" and f"{pointer:#x}" in reason.text
        vm.remove(watch)
        assert watch not in vm.ledger.of(CALLER)
        before = vm.stop().cpu.rip
        reason = vm.step()
        assert reason.kind == "step"
        assert vm.ledger.inserted == vm.ledger.of(FAULTS)
        assert vm.stop().cpu.rip != before


def test_typing_to_the_guest_reaches_qemu() -> None:
    with lab("clean") as vm:
        vm.run_until([DONE], 20)
        vm.console.send(b"x")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=140m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("no right to mount a small disk here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    (small_disk / "fill").write_bytes(bytes(100 << 20))
    with pytest.raises(OutputError, match="no room") as raised:
        lab(places=[small_disk], memory="64M")
    assert len(str(raised.value).splitlines()) <= 3
    assert [p.name for p in small_disk.iterdir()] == ["fill"]


def test_a_disk_that_becomes_full_under_the_guest(small_disk: Path) -> None:
    """The kernel ends QEMU with SIGBUS at the next page of RAM that finds no room."""
    with (
        pytest.raises(QemuDied, match="is full") as raised,
        lab(places=[small_disk], memory="64M") as vm,
    ):
        with pytest.raises(OSError), (small_disk / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        vm.run_until([DONE], 20)
    assert raised.value.status == -signal.SIGBUS
    assert [p.name for p in small_disk.iterdir()] == ["fill"]
