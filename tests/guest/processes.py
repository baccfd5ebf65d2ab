"""Processes as the kernel tells of them: a minimal system has neither `ps` nor `pgrep`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """Every process below one, QEMU and whatever watches it."""
    below: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # pid (name) state ppid: the name may hold anything (proc_pid_stat(5)).
            text = status.read_text(encoding="utf-8", errors="replace")
            parent = int(text.rpartition(")")[2].split()[1])
            below.setdefault(parent, []).append(int(status.parent.name))
    found = [pid]
    for one in found:
        found += below.get(one, [])
    return found[1:]


def command_line(pid: int) -> bytes:
    """What it was started with, its words ended by zeros; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
