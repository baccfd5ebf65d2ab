"""What the live tests share: the lab guest started through the agent, or beside it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent import configs
from breenix_gdbagent.live import LiveVm, launch
from breenix_gdbagent.x86.cpu import Cpu

ELF = Path(configs.__file__).parent / "lab" / "labguest.elf"
assert ELF.is_file(), "the lab guest's ELF comes with the package: without it nothing is tested"
DONE = "LAB COMPLETE"

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None,
    reason="no qemu-system-x86_64",
)


def lab(
    scenario: str = "clean",
    *,
    arguments: tuple[str, ...] = (),
    places: list[Path] | None = None,
    serial_log: Path | None = None,
    era: int = 2025,
    **settings: str | int | bool | None,
) -> LiveVm:
    """The lab guest, not started yet; `arguments` are added to QEMU's, `serial_log` is a file in
    which QEMU itself keeps what the guest wrote."""
    config = configs.load("lab")
    line = config.arguments
    if serial_log is not None:
        line = tuple(
            f"{a},logfile={serial_log}" if a.startswith("pipe,id=serial0") else a for a in line
        )
    config = replace(config, arguments=(*line, *arguments))
    return launch(
        config, kernel=ELF, append=f"scenario={scenario} era={era}", places=places, **settings
    )


@dataclass(frozen=True)
class Beside:
    """A QEMU that the agent did not start, with its sockets."""

    process: subprocess.Popen[bytes]
    room: Path

    @property
    def gdb(self) -> str:
        return f"unix:{self.room}/gdb"

    @property
    def qmp(self) -> str:
        return f"unix:{self.room}/qmp"

    @property
    def ram(self) -> Path:
        return self.room / "ram"

    @property
    def serial(self) -> str:
        return str(self.room / "serial.txt")

    def execute(self, command: str, **arguments: object) -> dict[str, Any]:
        """What the test's own monitor answers; it is on QEMU's stdio."""
        assert self.process.stdin is not None
        asked = {"execute": command, "arguments": arguments}
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            message = dict(json.loads(line))
            if "return" in message:
                return message
        raise EOFError("QEMU has ended")

    def monitor(self, line: str) -> str:
        """What QEMU's human monitor prints."""
        return str(self.execute("human-monitor-command", **{"command-line": line})["return"])

    def status(self) -> str:
        """QEMU's run state."""
        return str(self.execute("query-status")["return"]["status"])


def free_port() -> int:
    """A TCP port of this host that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def beside(
    room: Path,
    scenario: str = "clean",
    *more: str,
    paused: bool = False,
    memory: str = "128M",
    gdb: str | None = None,
) -> Iterator[Beside]:
    """The lab guest in a QEMU of its own, up to its greeting on a monitor of the test's. `gdb` is
    another place for the stub than a unix socket."""
    line = [
        *("qemu-system-x86_64", "-display", "none", "-nodefaults", "-no-user-config"),
        *("-machine", "pc,memory-backend=ram", "-m", memory),
        *("-object", f"memory-backend-file,id=ram,size={memory},mem-path={room}/ram,share=on"),
        *("-action", "reboot=shutdown,shutdown=pause"),
        *("-chardev", f"socket,path={room}/gdb,server=on,wait=off,id=g"),
        *("-gdb", gdb or "chardev:g"),
        *("-qmp", f"unix:{room}/qmp,server=on,wait=off", "-qmp", "stdio"),
        *("-serial", f"file:{room}/serial.txt"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
        *("-kernel", str(ELF), "-append", f"scenario={scenario} era=2025"),
        *(("-S",) if paused else ()),
        *more,
    ]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert b"QMP" in process.stdout.readline()
        qemu = Beside(process, room)
        qemu.execute("qmp_capabilities")
        yield qemu
    finally:
        process.kill()
        process.communicate()


def stood_at_its_exit(cpus: Sequence[Cpu]) -> bool:
    """Whether the CPUs of a guest that exited with 35 are where it wrote 17 to port 0xf4 (the
    status is ``value << 1 | 1``). An older QEMU has ended by then, and there are none."""
    return all((c.registers["rax"], c.registers["rdx"]) == (17, 0xF4) for c in cpus)


@dataclass(frozen=True)
class Logged:
    """One exception in QEMU's ``-d int`` log."""

    vector: int
    error: int
    rip: int
    cr2: int


_ENTRY = re.compile(
    r"v=([0-9a-f]{2}) e=([0-9a-f]{4}) i=0 cpl=\d IP=[0-9a-f]+:([0-9a-f]+) .*?CR2=([0-9a-f]+)",
    re.DOTALL,
)


def logged_exceptions(text: str) -> list[Logged]:
    """Exceptions (not interrupts) of the log, in order."""
    return [
        Logged(int(vector, 16), int(error, 16), int(rip, 16), int(cr2, 16))
        for vector, error, rip, cr2 in _ENTRY.findall(text)
        if int(vector, 16) < 32
    ]
