"""QEMU's process: started paused, held by socket pairs, never alive without us.

The stub and the monitor are socket pairs that QEMU is born with (``fd=``): nothing listens
anywhere, nothing has to be waited for, and the end of QEMU is an end of file. Serial lines are
FIFOs in the run directory: a UART writes byte by byte, and of such writes a unix socket holds
some 300 (each has a buffer of its own) before the guest has to wait for us, a FIFO 65536.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from breenix_gdbagent.configs import Config, Files, Firmware
from breenix_gdbagent.errors import OutputError, QemuDied, QemuError, QemuMissing
from breenix_gdbagent.link.rundir import RunDir
from breenix_gdbagent.link.serial import SerialPort

STDERR_TAIL = 8192
_PR_SET_PDEATHSIG = 1

Prepare = Callable[[Path], Mapping[str, str]]
"""Puts files into a run directory and gives more placeholders of the machine's. Raises `OSError`.
"""


class QemuProcess:
    """One QEMU. `gdb` and `qmp` are our ends of its sockets, `serials` of its serial lines; these
    are read once QEMU has opened them, which it has when it answers."""

    def __init__(
        self,
        config: Config,
        files: Files,
        *,
        places: Sequence[Path] | None = None,
        prepare: Prepare | None = None,
        room: int = 0,
    ):
        """Start it. Raises `InputError`, `QemuMissing`, `OutputError`, `QemuError`.

        `places` are the directories that may hold the run directory; `prepare` puts more into it,
        `room` bytes at most.
        """
        config.check(files)
        program = _program(config.program)
        firmware = config.find_firmware()
        size = config.settings.memory_bytes
        self.config = config
        self.exited = threading.Event()
        self.status: int | None = None
        self._said: str | None = None
        self.serials: list[SerialPort] = []
        self._pairs: list[socket.socket] = []
        self._prepare = prepare
        self.run = RunDir(size + room, places)
        try:
            self._start(program, files, firmware, size)
        except BaseException:
            self.close()
            raise

    def _start(self, program: str, files: Files, firmware: Firmware | None, size: int) -> None:
        self.ram = self.run.path / "ram"
        try:
            # Without a name from the start, so that it is nobody's to remove.
            self._stderr = (self.run.path / "stderr").open("w+b")
            (self.run.path / "stderr").unlink()
            self.ram.touch(mode=0o600)
            os.truncate(self.ram, size)
            self.serials = [
                SerialPort.fifo(self.run.path / f"serial{n}")
                for n in range(self.config.serial_ports)
            ]
            values = {"ram": str(self.ram), "run": str(self.run.path)}
            if firmware is not None:
                copy = self.run.path / "firmware_vars.fd"
                shutil.copyfile(firmware.vars, copy)
                values |= {"firmware_code": str(firmware.code), "firmware_vars": str(copy)}
            if self._prepare is not None:
                values |= self._prepare(self.run.path)
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.run.path}", error.strerror or str(error)
            ) from error
        ours, theirs = [], []
        for name in ("gdb", "qmp"):
            mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            self._pairs += [mine, its]
            ours.append(mine)
            theirs.append(its)
            values[f"{name}_fd"] = str(its.fileno())
        self.gdb, self.qmp = ours
        self.arguments = [program, *self.config.command_line(files, values)]
        self._spawn([its.fileno() for its in theirs])
        for its in theirs:
            its.close()
        self.run.watch(self.pid)

    def _spawn(self, fds: list[int]) -> None:
        """In a thread that lives as long as QEMU does.

        The parent-death signal of Linux is bound to the thread that forked, not to the process
        (prctl(2)); the same thread then waits for the end.
        """
        started: list[subprocess.Popen[bytes] | OSError] = []
        ready = threading.Event()

        def keeper() -> None:
            try:
                process = _popen(self.arguments, fds, self._stderr, self.run.path)
            except OSError as error:
                started.append(error)
                ready.set()
                return
            started.append(process)
            ready.set()
            self.status = process.wait()
            self.exited.set()

        threading.Thread(target=keeper, name="qemu-keeper", daemon=True).start()
        ready.wait()
        if isinstance(started[0], OSError):
            raise QemuError(f"{self.arguments[0]} cannot be started", str(started[0]))
        self._process = started[0]
        self.pid = self._process.pid

    def stderr(self) -> str:
        """The tail of what QEMU said on stderr."""
        if self._said is not None:
            return self._said
        self._stderr.flush()
        fd = self._stderr.fileno()
        size = os.fstat(fd).st_size
        tail = os.pread(fd, STDERR_TAIL, max(0, size - STDERR_TAIL))
        return tail.decode("utf-8", "replace")

    def died(self, seconds: float = 2.0) -> QemuDied | None:
        """The error to raise when a connection broke: QEMU's end, once it is known; else None."""
        if not self.exited.wait(seconds):
            return None
        fix = ""
        if self.status == -signal.SIGBUS:
            fix = f"the disk of {self.run.path.parent} is full: set TMPDIR to a larger one"
        elif self.status == 1 and self.config.settings.accel != "tcg":
            fix = "boot it with --accel tcg"
        return QemuDied(self.status, self.stderr(), fix)

    def kill(self) -> None:
        """End it now (SIGKILL: the guest's disks are throw-away overlays), and wait for that."""
        process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
        if process is not None and not self.exited.is_set():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            self.exited.wait(10)

    def close(self) -> None:
        """Kill QEMU, close all sockets, remove the run directory. Twice does no harm."""
        self.kill()
        if self._said is None and hasattr(self, "_stderr"):
            self._said = self.stderr()
            self._stderr.close()
        self.run.watch(None)
        for sock in self._pairs:
            sock.close()
        for port in self.serials:
            port.close()
        self.run.close()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise QemuMissing(
            f"there is no {name} on this machine",
            fix="install it: apt install qemu-system-x86 (Fedora: qemu-system-x86-core; "
            "macOS: brew install qemu)",
        )
    return found


def _popen(
    arguments: Sequence[str], fds: list[int], stderr: IO[bytes], directory: Path
) -> subprocess.Popen[bytes]:
    """QEMU in a session of its own: the terminal's Ctrl-C is for us, not for the guest."""
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        pass_fds=fds,
        env={**os.environ, "TMPDIR": str(directory)},
        start_new_session=True,
        preexec_fn=_die_with_parent() if sys.platform == "linux" else None,
    )


def _die_with_parent() -> Callable[[], None]:
    """What the child does before exec: ask for SIGKILL at the death of its parent thread.

    All is looked up before the fork; PyDLL keeps the interpreter lock, so the child runs a few
    instructions and takes no lock that another thread could have held at the fork.
    """
    import ctypes

    prctl = ctypes.PyDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(127)

    return ask
