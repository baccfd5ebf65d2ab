"""A QEMU of our own that is killed, ended, stopped or rebooted while a command boots it: the
command ends in time and in order, and nothing of it stays."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from tests.guest.live_support import needs_qemu
from tests.guest.processes import children, command_line
from tests.guest.test_faults_put_in import (
    end,
    gone,
    no_orphans,
    run_directories,
    start,
    wait,
)

pytestmark = needs_qemu

"""A stopped QEMU is given five seconds for an answer, a handful of times."""

COMMANDS = {
    "ci": ("ci", "--lab", "hang", "--timeout", "3", "-o", "stop", "--json"),
    "ci-fault": ("ci", "--lab", "page-fault-unmapped", "--timeout", "3", "--html", "page"),
    "snapshot": (
        "snapshot",
        "--lab",
        "page-fault-unmapped",
        "-o",
        "stop",
        "--memory",
        "all",
        "--timeout",
        "3",
    ),
    "audit": ("audit", "--lab", "--timeout", "3"),
    "pt": ("pt", "roots", "--lab", "--timeout", "3"),
    "bt": ("bt", "--lab", "--timeout", "3"),
    "shell": ("shell", "--lab", "-c", "continue", "-c", "roots", "-c", "registers"),
    "selftest": ("selftest",),
}


def qemu_below(agent: subprocess.Popen[str]) -> int | None:
    """The QEMU that the agent has started, waited for; None when it ended before that."""
    while agent.poll() is None:
        for pid in children(agent.pid):
            if b"qemu-system" in command_line(pid).split(b"\0")[0]:
                return pid
        wait(agent, 0.005)
    return None


CASES = [
    (command, fault, moment)
    for command in COMMANDS
    for fault in ("SIGKILL", "SIGTERM", "SIGSTOP")
    for moment in range(2)
    # Twenty seconds are given to a QEMU that starts, thirty to a self-test: once is enough.
    if fault != "SIGSTOP" or (moment == 1 and command != "selftest") or command == "ci"
]


@pytest.mark.parametrize(("command", "fault", "moment"), CASES)
def test_our_own_qemu_in_the_middle(command: str, fault: str, moment: int, tmp_path: Path) -> None:
    """From its first instruction to the last thing we ask of it."""
    dice = random.Random(f"{command} {fault} {moment}")
    agent = start(tmp_path, *COMMANDS[command], start_new_session=True)
    pid = qemu_below(agent)
    if pid is None:  # a machine so busy that the run was over before we saw its QEMU
        end(agent).orderly(0, 1)
        return
    below = children(agent.pid)
    own = {d for d in run_directories() for p in below if str(d).encode() in command_line(p)}
    wait(agent, dice.uniform(0.0, (0.06, 0.5)[moment]))
    put_in = False
    if agent.poll() is None:
        try:
            signal.pidfd_send_signal(os.pidfd_open(pid), getattr(signal, fault))
            put_in = True
        except ProcessLookupError:
            put_in = False
    if command == "shell" and fault == "SIGSTOP" and put_in:
        wait(agent, 1)
        agent.send_signal(signal.SIGINT)  # a `continue` has no deadline but its user
    ended = end(agent)
    # In the shell the lines after one that failed say that the guest still runs: 2.
    ended.orderly(0, 1, 3, 4, *((2,) if command == "shell" and put_in else ()))
    if ended.code == 3:
        assert put_in
        if fault == "SIGSTOP" and "interrupted" not in ended.err:
            assert f"QEMU (process {pid}) is stopped by a signal" in ended.err + ended.out
        assert ended.out == "" or command in ("shell", "selftest")
        assert not list(tmp_path.iterdir()), "half an answer"
    gone(below)
    assert not own & run_directories()
    if (tmp_path / "stop").exists():
        end(start(tmp_path, "report", "stop")).orderly(0, 1)


@pytest.mark.parametrize("scenario", ["reboot", "ist-unmapped"])
@pytest.mark.parametrize("command", ["ci", "snapshot", "audit", "pt", "bt", "shell"])
def test_a_guest_that_resets_itself(command: str, scenario: str, tmp_path: Path) -> None:
    """It stands still in our hands with all that it had."""
    line = {
        "ci": ("ci", "--lab", scenario),
        "snapshot": ("snapshot", "--lab", scenario, "-o", "stop"),
        "audit": ("audit", "--lab", scenario, "--json"),
        "pt": ("pt", "roots", "--lab", scenario),
        "bt": ("bt", "--lab", scenario),
        "shell": ("shell", "--lab", scenario, "-c", "continue", "-c", "roots"),
    }[command]
    ended = end(start(tmp_path, *line))
    ended.orderly(0, 1)
    assert ended.out


def limited(size: int) -> dict[str, object]:
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}


@pytest.mark.parametrize("size", [0, 4096, 1 << 20, 100 << 20])
@pytest.mark.parametrize("command", ["ci", "snapshot", "audit", "shell"])
def test_a_disk_with_no_room_for_the_guest(command: str, size: int, tmp_path: Path) -> None:
    """The RAM file, firmware variables, QEMU's words: nothing can be written, or not enough."""
    ended = end(start(tmp_path, *COMMANDS[command], **limited(size)))
    ended.orderly(3)
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []
    no_orphans()


@pytest.mark.parametrize(
    "face",
    [
        ("-o", "/dev/full"), ("--html", "/dev/full"), ("--markdown", "/dev/full"),
        ("--junit", "/dev/full"), ("--write-baseline", "/dev/full"),
    ],
    ids=lambda face: face[0],
)  # fmt: skip
def test_an_output_that_takes_nothing(face: tuple[str, ...], tmp_path: Path) -> None:
    ended = end(start(tmp_path, "ci", "--lab", "clean", *face))
    ended.orderly(2, 3)
    assert "/dev/full" in ended.err
    assert list(tmp_path.iterdir()) == []
    no_orphans()


@pytest.mark.parametrize("command", ["ci", "snapshot", "audit", "pt", "shell"])
def test_standard_output_that_takes_nothing(command: str, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        agent = subprocess.Popen(
            start(tmp_path, "--version").args + list(COMMANDS[command]),  # type: ignore[operator]
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        err = agent.communicate(timeout=60)[1]
    assert agent.returncode == 3, err
    assert err.splitlines()[-1] == (
        "breenix-gdbagent: the answer cannot be written: No space left on device"
    )


def test_no_place_for_temporary_files(tmp_path: Path) -> None:
    """TMPDIR names no directory, and there is no other: /dev/shm is enough."""
    ended = end(
        start(tmp_path, "ci", "--lab", "clean", env={"PATH": "/usr/bin:/bin", "TMPDIR": "/none"})
    )
    ended.orderly(0)
