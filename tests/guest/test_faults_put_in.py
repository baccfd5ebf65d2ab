"""Whatever is done to QEMU, the stub, the disk or the agent in the middle of a command: it ends
within its deadline, in at most three lines, with the contract's exit code, and nothing stays."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from breenix_gdbagent.snapshot.opening import read_snapshot
from tests.guest.live_support import Beside, beside, needs_qemu
from tests.guest.processes import children, command_line

pytestmark = [
    needs_qemu,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd on this system"),
]

DEADLINE = 60
ROUNDS = int(os.environ.get("BREENIX_FAULT_ROUNDS", "200"))
COMMANDS = {
    "pt": ("pt", "roots"),
    "audit": ("audit",),
    "ci": ("ci", "--timeout", "3"),
    "snapshot": ("snapshot", "-o", "stop"),
    "shell": ("shell", "-c", "registers", "-c", "roots"),
}


@dataclass(frozen=True)
class End:
    """How an agent ended."""

    code: int
    out: str
    err: str

    def orderly(self, *codes: int) -> None:
        """The contract's form of an end."""
        assert self.code in codes, (self.code, self.err)
        assert "Traceback" not in self.err + self.out, self.err
        assert "a defect of the agent" not in self.err, self.err
        if self.code in (2, 3):
            assert 1 <= len(self.err.strip().splitlines()) <= 3, self.err


def start(room: Path, *arguments: str, **more: object) -> subprocess.Popen[str]:
    """The agent in a directory of its own, which is also where its run directories go."""
    places = {name: str(room) for name in ("TMPDIR", "XDG_RUNTIME_DIR")}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "breenix_gdbagent", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=room,
        **{"env": {**os.environ, **places}, **more},
    )


def end(agent: subprocess.Popen[str]) -> End:
    try:
        out, err = agent.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.communicate()
        raise
    return End(agent.returncode, out, err)


def wait(agent: subprocess.Popen[str], seconds: float) -> None:
    """Until the agent has ended or the moment has come."""
    if agent.poll() is not None:
        return
    fd = os.pidfd_open(agent.pid)
    select.select([fd], [], [], seconds)
    os.close(fd)


def begun(agent: subprocess.Popen[str]) -> None:
    """Until the agent's first line has run: it catches SIGTERM then. What is before that is
    Python's own start, which no program can change."""
    caught = 1 << signal.SIGTERM - 1
    while agent.poll() is None:
        try:
            text = Path(f"/proc/{agent.pid}/status").read_text()
        except OSError:  # it has ended meanwhile
            return
        if int(text.partition("SigCgt:")[2].split()[0], 16) & caught:
            return
        wait(agent, 0.001)


def gone(pids: list[int]) -> None:
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([fd], [], [], 10)[0], Path(f"/proc/{pid}/cmdline").read_bytes()
        os.close(fd)


def run_directories() -> set[Path]:
    return set(Path("/dev/shm").glob("breenix-gdbagent-*"))


FAULTS: dict[str, tuple[Callable[[Beside], None], tuple[int, ...]]] = {
    "killed": (lambda qemu: qemu.process.send_signal(signal.SIGKILL), (0, 1, 3, 4)),
    "stopped": (lambda qemu: qemu.process.send_signal(signal.SIGSTOP), (0, 1, 3, 4)),
    "reset": (lambda qemu: qemu.execute("system_reset"), (0, 1, 3, 4)),
}


MOMENTS = [
    (command, fault, moment)
    for command in COMMANDS
    for fault in FAULTS
    for moment in range(1 if fault == "stopped" else 3)  # a stopped one takes all its deadlines
]


@pytest.mark.parametrize(("command", "fault", "moment"), MOMENTS)
def test_qemu_in_the_middle(command: str, fault: str, moment: int, tmp_path: Path) -> None:
    do, codes = FAULTS[fault]
    room, theirs = tmp_path / "agent", tmp_path / "qemu"
    room.mkdir()
    theirs.mkdir()
    delay = random.Random(f"{command} {fault} {moment}").uniform(0.05, 0.6)
    with beside(theirs, "hang") as qemu:
        agent = start(room, *COMMANDS[command], "--gdb", qemu.gdb, "--qmp", qemu.qmp)
        wait(agent, delay)
        do(qemu)
        ended = end(agent)
    ended.orderly(*codes)
    left = [one.name for one in room.iterdir()]
    assert left in ([], ["stop"]), left
    if ended.code == 3 and left:  # QEMU went while its RAM was copied: what was had by then is kept
        assert "stop is written, and lacks" in ended.err
        assert read_snapshot(room / "stop").stop.cpus


@pytest.mark.parametrize("sent", ["STOP", "KILL"])
def test_a_script_ends_where_its_guest_answers_no_more(sent: str, tmp_path: Path) -> None:
    room, theirs = tmp_path / "agent", tmp_path / "qemu"
    room.mkdir()
    theirs.mkdir()
    with beside(theirs, "hang") as qemu:
        put = f"!kill -{sent} {qemu.process.pid}"
        lines = ["registers", put, "stepi", "registers", "stepi"]
        words = [word for line in lines for word in ("-c", line)]
        ended = end(start(room, "shell", *words, "--gdb", qemu.gdb, "--qmp", qemu.qmp))
    assert ended.code == 3
    ended.orderly(3)
    assert ended.err.startswith("stepi: ")
    assert "; not run then: 2 commands" in ended.err


def _orphans() -> set[Path]:
    """Run directories whose owner is dead: nobody holds their lock."""
    found = set()
    for directory in run_directories():
        try:
            with (directory / "lock").open("rb+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or on its way in or out
            continue
        found.add(directory)
    return found


def no_orphans() -> None:
    """No run directory is left by anybody: what is being removed has ten seconds for it."""
    limit = time.monotonic() + 10
    seen = _orphans()
    while seen and time.monotonic() < limit:
        seen &= _orphans()
    assert not seen


@contextmanager
def stub(path: Path, talk: Callable[[socket.socket], None]) -> Iterator[None]:
    """A gdbstub of ours, one client at a time."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(4)

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client:
                talk(client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def _until_closed(client: socket.socket) -> None:
    try:
        while client.recv(4096):
            pass
    except OSError:
        return


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stub_that_never_answers(command: str, tmp_path: Path) -> None:
    with stub(tmp_path / "gdb", _until_closed):
        ended = end(start(tmp_path, *COMMANDS[command], "--gdb", f"unix:{tmp_path}/gdb"))
    ended.orderly(3)
    assert ended.out == ""
    assert not (tmp_path / "stop").exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("most", [0, 1, 7, 100, 700, 3000, 9000])
def test_a_socket_that_closes_after_some_bytes(command: str, most: int, tmp_path: Path) -> None:
    """QEMU's own stub, cut off after so many bytes of its answers."""
    with beside(tmp_path, "hang") as qemu:

        def relay(client: socket.socket) -> None:
            with socket.socket(socket.AF_UNIX) as real:
                real.connect(f"{qemu.room}/gdb")
                given = 0
                while given < most:
                    ready, _, _ = select.select([client, real], [], [], 20)
                    if client in ready:
                        asked = client.recv(4096)
                        if not asked:
                            return
                        real.sendall(asked)
                    if real in ready:
                        data = real.recv(4096)[: most - given]
                        client.sendall(data)
                        given += len(data)

        with stub(tmp_path / "cut", relay):
            ended = end(start(tmp_path, *COMMANDS[command], "--gdb", f"unix:{tmp_path}/cut"))
    ended.orderly(3, *((1,) if command == "ci" else ()))
    assert not (tmp_path / "stop").exists() or ended.code != 3


@pytest.mark.parametrize("size", [0, 100, 5000, 60000])
@pytest.mark.parametrize("face", ["-o", "--html"])
@pytest.mark.parametrize("command", ["snapshot", "ci"])
def test_a_file_that_may_not_grow(command: str, face: str, size: int, tmp_path: Path) -> None:
    """RLIMIT_FSIZE on an attached agent, which has no RAM file of its own to make."""
    room, theirs = tmp_path / "agent", tmp_path / "qemu"
    room.mkdir()
    theirs.mkdir()
    more = ("--timeout", "1") if command == "ci" else ("--now",)
    if command == "snapshot" and face != "-o":
        more = (*more, "-o", "/dev/null")
    with beside(theirs, "hang") as qemu:
        agent = start(
            room, command, *more, face, "out", "--gdb", qemu.gdb, "--qmp", qemu.qmp,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        )  # fmt: skip
        ended = end(agent)
        agent_again = end(start(room, "pt", "roots", "--gdb", qemu.gdb, "--qmp", qemu.qmp))
    ended.orderly(2, 3, 0, 1, 4)
    written = room / "out"
    if ended.code in (2, 3):
        # Half a file is worse than none. That one cannot be written is no reason to lose another.
        assert list(room.iterdir()) in ([], [written]), ended.err
        assert not written.exists() or written.read_text().rstrip().endswith("</html>")
    else:
        assert written.stat().st_size <= size
    agent_again.orderly(0)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_the_agent_is_interrupted(seed: int, tmp_path: Path) -> None:
    """A run that launches QEMU; any moment, any of three signals."""
    dice = random.Random(seed)
    number = dice.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
    command = dice.choice(
        (
            ("ci", "--lab", "hang", "--timeout", "5", "-o", "stop", "--html", "page"),
            ("snapshot", "--lab", "page-fault-unmapped", "-o", "stop", "--memory", "all"),
            ("audit", "--lab"),
            ("pt", "roots", "--lab"),
            ("shell", "--lab", "-c", "continue", "-c", "roots"),
        )
    )
    agent = start(tmp_path, *command, start_new_session=True)
    begun(agent)
    wait(agent, dice.uniform(0, 0.8))
    below = children(agent.pid)
    own = {
        path
        for pid in below
        for path in run_directories()
        if str(path).encode() in command_line(pid)
    }
    agent.send_signal(number)
    ended = end(agent)
    if number is signal.SIGKILL:
        assert ended.code in (-9, 0, 1, 4), ended
    else:
        ended.orderly(0, 1, 3, 4)
    gone(below)
    deadline = time.monotonic() + 10
    while own & run_directories() and time.monotonic() < deadline:
        pass
    assert not own & run_directories()
    left = {one.name for one in tmp_path.iterdir()}
    assert left <= {"stop", "page"}, left
    if "stop" in left:  # whole, or not there at all
        end(start(tmp_path, "report", "stop")).orderly(0, 1)
    if "page" in left:
        assert (tmp_path / "page").read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_imports_or_ends(number: signal.Signals, tmp_path: Path) -> None:
    """Every few milliseconds of a short command's life: its whole answer with its own code, or
    one line and 3."""
    whole = end(start(tmp_path, "lab")).out
    seen = set()
    for moment in range(0, 120, 3):
        agent = start(tmp_path, "lab")
        begun(agent)
        wait(agent, moment / 1000)
        agent.send_signal(number)
        ended = end(agent)
        ended.orderly(0, 3)
        assert ended.out == whole or (ended.code == 3 and ended.out == ""), ended
        assert (ended.err == "") == (ended.code == 0), ended
        seen.add(ended.code)
    assert seen == {0, 3}
