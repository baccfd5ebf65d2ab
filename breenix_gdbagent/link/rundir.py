"""The private directory of one run, gone when the agent is gone, however it went.

A janitor (one `sh`, in a session of its own) blocks on a pipe that only we hold open: its end of
file means that we have closed the directory or have died, by SIGKILL too. It then kills the QEMU
it was told of, if any, and removes the directory. For the case that the janitor died as well, the
next run sweeps what has no living owner: a lock on the file `lock` says that there is one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from breenix_gdbagent.errors import OutputError

PREFIX = "breenix-gdbagent-"
ROOM = 64 << 20
"""Bytes wanted free besides RAM: firmware variables and what the guest writes to its disks."""

_JANITOR = """
trap '' INT TERM HUP QUIT
pid=
while read -r word; do pid=$word; done
if [ -n "$pid" ]; then kill -9 "$pid"; fi
rm -rf -- "$1"
"""


def bases() -> list[Path]:
    """Directories to make run directories in, best first: memory, then temporary files."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    places = [Path("/dev/shm"), Path(runtime) if runtime else None]
    with suppress(FileNotFoundError):  # not one that can be written
        places.append(Path(tempfile.gettempdir()))
    return [p for p in places if p is not None and os.access(p, os.W_OK | os.X_OK)]


class RunDir:
    """A directory of mode 0700 with a janitor; `path` is where it is."""

    def __init__(self, size: int, places: Iterable[Path] | None = None) -> None:
        """In the first place with `size` bytes to spare. Raises `OutputError`."""
        candidates = bases() if places is None else list(places)
        for place in candidates:
            sweep(place)
        base = next((p for p in candidates if _free(p) >= size + ROOM), None)
        if base is None:
            where = ", ".join(f"{p} ({_free(p) >> 20} MiB)" for p in candidates) or "nowhere"
            raise OutputError(
                f"no room for the guest's RAM: {(size + ROOM) >> 20} MiB",
                f"free: {where}",
                "free some space, set TMPDIR to a larger disk, or give the guest less memory",
            )
        self.path = base / f"{PREFIX}{secrets.token_hex(6)}"
        # The janitor first: from the moment the directory exists it is somebody's to remove.
        self._janitor = subprocess.Popen(
            ["/bin/sh", "-c", _JANITOR, "breenix-gdbagent-janitor", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.path.mkdir(mode=0o700)
            self._lock = _locked(self.path)
        except OSError as error:
            self._dismiss()
            raise OutputError(f"cannot make {self.path}", error.strerror or str(error)) from error

    def watch(self, pid: int | None) -> None:
        """The process that must not outlive us; None when it has ended (and was waited for)."""
        pipe = self._janitor.stdin
        if pipe is not None and not pipe.closed:
            with suppress(BrokenPipeError):
                pipe.write(b"\n" if pid is None else b"%d\n" % pid)
                pipe.flush()

    def close(self) -> None:
        """Have it removed, and wait until it is. Twice does no harm."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            self._dismiss()

    def _dismiss(self) -> None:
        pipe = self._janitor.stdin
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._janitor.wait(5)
        shutil.rmtree(self.path, ignore_errors=True)


def sweep(place: Path) -> None:
    """Remove run directories of ours in `place` whose owner is dead."""
    for found in place.glob(f"{PREFIX}*/lock"):
        try:
            fd = os.open(found, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(found.parent, ignore_errors=True)
        finally:
            os.close(fd)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock of `path`; under its name only once it is locked."""
    draft = path / "lock.new"
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    draft.rename(path / "lock")
    return fd


def _free(place: Path) -> int:
    try:
        status = os.statvfs(place)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize
