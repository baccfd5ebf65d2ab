"""What the kernel's own log says of its processes: the only names a stripped kernel has.

A witness, not a judge: the log tells which root was *given* to which process, not that it is
still its own. Lines as kernel/src/process/manager.rs and kernel/src/memory/process_memory.rs
print them, in both eras.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from breenix_gdbagent.stop import SerialText

_ROOT = re.compile(r"Allocated L4 frame: (0x[0-9a-f]+)")
_CREATED = re.compile(r"Created process (.+?) \(PID (\d+)\)")
_FORKING = re.compile(r"Forking process \d+ '(.+?)' -> child PID (\d+)")
_KILLED = re.compile(r"Killing process (.+?) \(PID (\d+)\)")
_EXITED = re.compile(r"Process (\d+) (?:\([^)]*\) )?(?:exited|terminated)", re.IGNORECASE)
_PANIC = re.compile(r"KERNEL PANIC: (.*)")


@dataclass(frozen=True, slots=True)
class LoggedProcess:
    """A process as the log introduced it; `root` None when no frame was logged for it."""

    pid: int
    name: str
    root: int | None


@dataclass(frozen=True, slots=True)
class LogFacts:
    """Processes by root, pids that the log says are gone, and panic messages."""

    processes: tuple[LoggedProcess, ...] = ()
    ended: frozenset[int] = field(default_factory=frozenset)
    panics: tuple[str, ...] = ()

    def by_root(self, root: int) -> LoggedProcess | None:
        """The last process that was given `root`."""
        return next((p for p in reversed(self.processes) if p.root == root), None)


def panics(serial: SerialText) -> tuple[str, ...]:
    """What Rust kernels' panic handlers have said, port by port."""
    lines = (line for port in serial.ports for line in serial.port(port).splitlines())
    return tuple(found[1] for line in lines if (found := _PANIC.search(line)))


def read_log(serial: SerialText) -> LogFacts:
    """Collect what the log says, port by port (the 2026 kernel logs on COM2)."""
    processes: list[LoggedProcess] = []
    ended: set[int] = set()
    panics: list[str] = []
    for port in serial.ports:
        root: int | None = None
        for line in serial.port(port).splitlines():
            if found := _ROOT.search(line):
                root = int(found[1], 16)
            elif found := _CREATED.search(line):
                processes.append(LoggedProcess(int(found[2]), found[1], root))
                root = None
            elif found := _FORKING.search(line):
                processes.append(LoggedProcess(int(found[2]), found[1], None))
            elif found := _KILLED.search(line):
                ended.add(int(found[2]))
            elif found := _EXITED.search(line):
                ended.add(int(found[1]))
            elif found := _PANIC.search(line):
                panics.append(found[1])
    return LogFacts(tuple(processes), frozenset(ended), tuple(panics))
