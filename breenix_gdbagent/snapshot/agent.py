"""Which build of the agent this is: a hash of its own code, and of the libraries that decode for
it.

A version number stays what it is while the code under it changes; a report that was kept is only
as good as the code that made it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
_DECODERS = ("capstone-", "construct-")
"""Distributions whose version shows in a report: the text of an instruction, a core's registers."""


def agent() -> str | None:
    """SHA-256 of the package's modules with their names, of Python's version and the decoders';
    None where the code lies in no files (a zip archive)."""
    import hashlib

    whole = hashlib.sha256(repr((sys.version_info[:3], _decoders())).encode())
    try:
        for path in sorted(_sources(PACKAGE)):
            code = Path(path).read_bytes()
            whole.update(f"{os.path.relpath(path, PACKAGE)} {len(code)}\n".encode())
            whole.update(code)
    except OSError:
        return None
    return whole.hexdigest()


def changed_since_start() -> bool:
    """Whether a module's file is newer than this process, which then runs other code than `agent`
    reads; True also where the age of the process is not known (no /proc)."""
    try:
        stat = Path("/proc/self/stat").read_bytes()
        # Field 22, counted after the name in brackets: clock ticks from boot to start (proc(5)).
        ticks = int(stat.rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        start = time.time() - age
        return any(Path(path).stat().st_mtime >= start for path in _sources(PACKAGE))
    except (OSError, AttributeError):
        return True


def _sources(folder: Path | str) -> Iterator[str]:
    """The modules under `folder`, in no order. Raises `OSError`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                yield entry.path
            elif entry.is_dir() and entry.name != "__pycache__":
                yield from _sources(entry.path)


def _decoders() -> list[str]:
    """``capstone-5.0.1.dist-info``: as they stand beside the module that is imported."""
    found = PathFinder.find_spec("capstone")
    if found is None or found.origin is None:
        return []
    try:
        beside = [path.name for path in Path(found.origin).parents[1].iterdir()]
    except OSError:
        return []
    return sorted(name for name in beside if name.startswith(_DECODERS))
