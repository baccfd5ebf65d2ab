"""The agent interrupted at any moment leaves nothing behind: a few times here, 200 by hand with
``BREENIX_SIGNAL_ROUNDS=200``."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from breenix_gdbagent.link.qmp import Qmp
from breenix_gdbagent.live import attach
from tests.guest.live_support import beside, needs_qemu

pytestmark = [
    needs_qemu,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd on this system"),
]

ROUNDS = int(os.environ.get("BREENIX_SIGNAL_ROUNDS", "6"))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

LAUNCHES = """
import sys
from pathlib import Path
from tests.guest.live_support import ELF, lab
print("up", flush=True)
with lab("hang", places=[Path(sys.argv[1])]) as vm:
    vm.arm(ELF)
    limit, patterns = 20, ["Kernel initialization complete!"]
    for _ in range(1000):
        if vm.run_until(patterns, limit).reason.kind == "interrupt":
            raise KeyboardInterrupt
        limit, patterns = 0.02, []
        vm.stop()
"""

ATTACHES = """
import sys
from breenix_gdbagent.live import attach
print("up", flush=True)
with attach("unix:" + sys.argv[1] + "/gdb", qmp=sys.argv[1] + "/qmp") as vm:
    for _ in range(1000):
        vm.arm()
        stop = vm.stop()
        vm.stub.read_physical([(0x100000, 65536)])
        vm.insert(stop.cpu.rip)
        vm.step()
        if vm.run_until([], 0.02).reason.kind == "interrupt":
            raise KeyboardInterrupt
"""


def interrupted(script: str, argument: Path, number: signal.Signals, delay: float) -> int:
    """Exit status of an agent that gets a signal `delay` seconds after its imports."""
    agent = subprocess.Popen(
        [sys.executable, "-c", script, str(argument)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert agent.stdout is not None
    assert agent.stdout.readline() == b"up\n"
    fd = os.pidfd_open(agent.pid)
    select.select([fd], [], [], delay)
    os.close(fd)
    agent.send_signal(number)
    _, errors = agent.communicate(timeout=20)
    assert b"Task was destroyed" not in errors and b"ignored" not in errors, errors.decode()
    return agent.returncode


def qemus(directory: Path) -> list[int]:
    """Processes whose command line names the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in line and (b"qemu-system" in line or b"janitor" in line):
            found.append(int(entry.parent.name))
    return found


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_launched_guest(seed: int, tmp_path: Path) -> None:
    delay = random.Random(seed).uniform(0, 0.8)
    interrupted(LAUNCHES, tmp_path, SIGNALS[seed % 3], delay)
    for pid in qemus(tmp_path):
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([fd], [], [], 5)[0], pid
        os.close(fd)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_an_attached_guest(seed: int, tmp_path: Path) -> None:
    """After SIGINT and SIGTERM it is as it was; SIGKILL leaves at most a stopped guest, and never
    physical mode."""
    number = SIGNALS[seed % 3]
    with beside(tmp_path, "hang") as qemu:
        interrupted(ATTACHES, tmp_path, number, random.Random(seed).uniform(0, 0.8))
        qmp = Qmp(str(qemu.room / "qmp"))
        if number != signal.SIGKILL:
            assert qmp.status() == "running"
        qmp.close()
        with attach(qemu.gdb, qmp=qemu.qmp) as vm:
            assert vm.stub.ask(b"qqemu.PhyMemMode") == [b"0"]
            if number != signal.SIGKILL:
                assert vm.run_until([], 0.1).reason.kind == "deadline"
