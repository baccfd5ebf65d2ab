"""What a worker of a Dask cluster runs: files that it lacks are asked for once, by content hash."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distributed import get_worker

from breenix_gdbagent.errors import AgentError, InputError
from breenix_gdbagent.fleet.boot import RUNNING, Boots, Job, boot
from breenix_gdbagent.fleet.engines import fitting
from breenix_gdbagent.fleet.result import Result
from breenix_gdbagent.wholefile import appearing


@dataclass(frozen=True, slots=True)
class Sent:
    """A file of the hunt's: what it is to the boot (``kernel``, ``image``, ``disk``), its SHA-256,
    its name."""

    role: str
    sha256: str
    name: str


@dataclass(frozen=True, slots=True)
class Lacks:
    """The worker at `address` has not got these yet."""

    address: str
    files: tuple[Sent, ...]


@dataclass(frozen=True, slots=True)
class Unable:
    """No boot is possible on the worker at `address`: QEMU is missing, or its disk is full."""

    address: str
    what: str
    why: str
    fix: str


_room: dict[int, threading.BoundedSemaphore] = {}
_making = threading.Lock()


def packed(job: Job, files: Sequence[Sent], memory: int) -> bytes:
    """What `boot_here` takes. As bytes: Dask takes dataclasses apart to look for tasks in them."""
    return pickle.dumps((job, tuple(files), memory))


def boot_here(data: bytes) -> bytes:
    """What came of one boot on this worker, a `Result`, `Lacks` or `Unable`, pickled. Raises
    `Stopped`, `InputError`."""
    return pickle.dumps(_booted(*pickle.loads(data)))


def _booted(job: Job, files: Sequence[Sent], memory: int) -> Result | Lacks | Unable:
    """At most as many at once as cores and RAM allow for guests of `memory` bytes."""
    worker = get_worker()
    lacking = tuple(one for one in files if not place(one).is_file())
    if lacking:
        return Lacks(worker.address, lacking)
    key = worker.get_current_task()

    def unwanted() -> bool:
        """The hunt has gone, or wants this boot no more."""
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    with _making:
        room = _room.setdefault(memory, threading.BoundedSemaphore(fitting(memory)))
    with room:
        try:
            return boot(replace(job, boots=_with(job, files)), unwanted)
        except InputError:
            raise
        except AgentError as error:
            if unwanted():
                raise
            return Unable(worker.address, error.what, error.why, error.fix)


def _with(job: Job, files: Sequence[Sent]) -> Boots:
    """What is booted, by the files of this worker."""
    single = {one.role: place(one) for one in files if one.role != "disk"}
    config = single.get("config")
    return replace(
        job.boots,
        kernel=single.get("kernel"),
        image=single.get("image"),
        config=job.boots.config if config is None else str(config),
        disks=tuple(place(one) for one in files if one.role == "disk"),
    )


def keep(packed_file: bytes) -> None:
    """Put a `Sent` with its bytes, pickled, where boots of this machine find it. Raises
    `OutputError`, `InputError`."""
    file, data = pickle.loads(packed_file)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise InputError(f"{file.name} has come damaged")
    path = place(file)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with appearing(path) as out:
        out.write(data)


def place(file: Sent) -> Path:
    """Where it is kept on this machine, whoever's hunt it is of."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "breenix-gdbagent" / "files" / file.sha256 / Path(file.name).name


def stop_boots() -> None:
    """Those that run on this worker end without a result; later ones are welcome."""
    RUNNING.stop()
    RUNNING.again()
