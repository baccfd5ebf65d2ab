"""Every bad input gets at most three lines, the contract's exit code, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from breenix_gdbagent.lab import elf
from breenix_gdbagent.symbols import Image
from tests.guest.labrun import Result, agent
from tests.guest.processes import children, command_line

LAB = str(elf(False))


def refused(result: Result, code: int, *words: str) -> None:
    """The contract's error form: nothing on stdout, one to three lines on stderr."""
    assert result.code == code, result.err
    assert result.out == ""
    lines = result.err.strip().splitlines()
    assert 1 <= len(lines) <= 3, result.err
    assert lines[0].startswith("breenix-gdbagent: ")
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("ci",), "no target"),
        (("ci", "--lab", "nope"), "nope"),
        (("ci", "--lab", "clean", "--snapshot", "x"), "two targets"),
        (("ci", "--image", "/nonexistent", "--kernel", LAB), "/nonexistent"),
        (("ci", "--image", LAB, "--kernel", LAB), "no disk image"),
        (("ci", "--image", "/dev/null", "--kernel", LAB), "/dev/null"),
        (("ci", "--kernel", LAB), "nothing says what boots it"),
        (("ci", "--config", "iso", "--kernel", LAB), "needs --image"),
        (("ci", "--config", "kernel", "--image", LAB, "--kernel", LAB), "boots no image"),
        (("ci", "--config", "kernel", "--kernel", "/nonexistent"), "/nonexistent"),
        (("init", "machine"), "nothing says how it boots"),
        (("init", "machine", "--image", "/dev/null"), "/dev/null"),
        (("ci", "--breenix", "/nonexistent"), "/nonexistent"),
        (("ci", "--lab", "clean", "--timeout", "0"), "--timeout"),
        (("ci", "--lab", "clean", "--timeout", "1e9"), "at most"),
        (("audit", "--lab", "clean", "--timeout", "nan"), "--timeout"),
        (("snapshot", "--lab", "clean", "--at", "kernel_mian"), "did you mean kernel_main"),
        (("ci", "--lab", "clean", "--timeout", "soon"), "soon"),
        (("ci", "--lab", "clean", "--until", "("), "regular expression"),
        (("ci", "--lab", "clean", "-o", "/nonexistent/x"), "/nonexistent"),
        (("ci", "--lab", "clean", "--expect", "nope"), "nope"),
        (("ci", "--lab", "clean", "--config", "nope"), "nope"),
        (("ci", "--lab", "clean", "--qmp", "x"), "--qmp"),
        (("ci", "--snapshot", LAB), "needs a target that runs"),
        (("report", "/nonexistent"), "/nonexistent"),
        (("report", "/etc/hostname"), "hostname"),
        (("report", LAB), "core"),
        (("pt", "walk", "0xzz", "--lab"), "0xzz"),
        (("pt", "walk", "no_such_number", "--snapshot", "/nonexistent"), "/nonexistent"),
        (("frobnicate",), "frobnicate"),
        (("pt", "frobnicate"), "frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_use(arguments: tuple[str, ...], word: str) -> None:
    refused(agent(*arguments), 2, word)


def test_nobody_answers() -> None:
    refused(agent("audit", "--gdb", "unix:/nonexistent/socket"), 3, "gdbstub")


def test_qemu_dies_at_once() -> None:
    refused(agent("ci", "--lab", "clean", "--accel", "nope"), 3, "nope")


def test_no_qemu(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "breenix_gdbagent", "ci", "--lab", "clean"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    refused(Result(done.returncode, done.stdout, done.stderr), 3, "qemu-system-x86_64", "install")


def test_the_elf_of_another_build(tmp_path: Path) -> None:
    other = tmp_path / "other.elf"
    data = bytearray(elf(False).read_bytes())
    image = Image.open(elf(False)).elf
    text = next(s for s in image.sections if s.name == ".text")
    data[text.offset : text.offset + 2] = b"\x0f\x0b"
    other.write_bytes(data)
    file = tmp_path / "stop"
    assert agent("snapshot", "--lab", "clean", "-o", str(file)).code == 0
    refused(agent("report", str(file), "--kernel", str(other)), 2, "other.elf", "not the")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """The run is long; the signal comes when QEMU is up. No QEMU, no file is left."""
    file = tmp_path / "stop"
    agent_process = subprocess.Popen(
        [
            sys.executable, "-m", "breenix_gdbagent", "ci", "--lab", "marker-missing",
            "--timeout", "60", "-o", str(file),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    child = _wait_for_child(agent_process.pid)
    agent_process.send_signal(number)
    _, err = agent_process.communicate(timeout=20)
    if number is not signal.SIGKILL:
        assert agent_process.returncode == 3
        assert len(err.strip().splitlines()) <= 3
    _wait_until_gone(child)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [("ci",), ("snapshot",), ("audit",)], ids=" ".join)
def test_an_interrupted_run_has_not_passed(command: tuple[str, ...], tmp_path: Path) -> None:
    """Ctrl-C while the guest runs on after its first lines: no report, no file, and exit 3."""
    face = () if command == ("audit",) else ("-o", str(tmp_path / "stop"))
    mark = ("--checkpoint", "kernel_main") if command == ("ci",) else ()
    agent_process = subprocess.Popen(
        [
            sys.executable, "-m", "breenix_gdbagent", *command, "--lab", "marker-missing",
            "--timeout", "60", *face, *mark,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    child = _wait_for_child(agent_process.pid)
    if mark:
        assert agent_process.stderr is not None
        assert "kernel_main" in agent_process.stderr.readline()
    agent_process.send_signal(signal.SIGINT)
    out, err = agent_process.communicate(timeout=20)
    assert (agent_process.returncode, out) == (3, ""), err
    if mark:
        first, where, *last = err.rstrip().splitlines()
        assert first == "breenix-gdbagent: interrupted; nothing is left running"
        assert re.match(r"  the guest stood \S+ s into its run at 0x\w+.*, ring [03]", where), err
        assert all(line.startswith("  its last line: ") for line in last), err
    _wait_until_gone(child)
    assert not list(tmp_path.iterdir())


def _wait_for_child(pid: int) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for child in children(pid):
            if b"qemu-system" in command_line(child).split(b"\0")[0]:
                return child
    raise AssertionError("QEMU never started")


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists():
            return
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        if state == "Z":
            return
    raise AssertionError(f"QEMU {pid} is still running")
