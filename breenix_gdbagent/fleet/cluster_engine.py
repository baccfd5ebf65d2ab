"""Boots on a Dask cluster: ``--scheduler tcp://HOST:PORT``, with the extra ``[hunt]``."""

from __future__ import annotations

import hashlib
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from breenix_gdbagent.errors import ConnectError, InputError, QemuMissing
from breenix_gdbagent.fleet.boot import Boots, Job, Stopped, composed
from breenix_gdbagent.fleet.result import Result

CONNECT_SECONDS = 15.0
PATIENCE_SECONDS = 600.0
"""So long a scheduler may be gone before the hunt gives up; what came before is kept."""
AGAIN_SECONDS = 1.0
RETRIES = 3
MOST_WAITING = 128


class DaskCluster:
    """Workers of a scheduler, wherever they are. Each boot that is under way has a thread here
    that waits for it, sends files that its worker lacks, and hands it out again when the worker
    or the scheduler has died."""

    def __init__(self, address: str, boots: Boots, memory: int, say: Callable[[str], None]) -> None:
        """Raises `InputError` without the extra, `ConnectError`."""
        try:
            import distributed
        except ImportError as error:
            raise InputError(
                "--scheduler needs the extra [hunt]",
                "dask.distributed is not installed",
                "pip install 'distributed>=2026.1' into the environment of the agent",
            ) from error
        self._distributed = distributed
        self.name = f"dask {address}"
        self._address = address
        self._memory = memory
        self._say = say
        self._boots, self._paths = travelling(boots)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._unable: set[str] = set()
        self._client = self._connect(CONNECT_SECONDS)
        self._pool = ThreadPoolExecutor(MOST_WAITING, thread_name_prefix="boot")

    def _connect(self, seconds: float) -> Any:
        try:
            client: Any = self._distributed.Client
            return client(
                self._address, timeout=seconds, set_as_default=False, heartbeat_interval=2000
            )
        except (OSError, TimeoutError, ValueError) as error:
            raise ConnectError(
                f"no Dask scheduler answers at {self._address}",
                str(error) or type(error).__name__,
                "start one: dask scheduler, and workers: dask worker ADDRESS",
            ) from error

    @property
    def slots(self) -> int:
        """Threads of all workers that can boot."""
        with suppress(OSError, TimeoutError):
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            threads: int = sum(w["nthreads"] for a, w in workers.items() if a not in self._unable)
            return max(1, min(threads, MOST_WAITING // 2))
        return 1

    def submit(self, job: Job) -> Future[Result]:
        """One boot, somewhere."""
        return self._pool.submit(self._one, replace(job, boots=self._boots))

    def _one(self, job: Job) -> Result:
        """Until a worker has a result. Raises `Stopped`, `ConnectError`, `QemuMissing`."""
        from breenix_gdbagent.fleet.remote import Lacks, Unable, boot_here, packed

        files = tuple(self._paths)
        gone_since: float | None = None
        while not self._over.is_set():
            client = self._client
            try:
                data = client.submit(
                    boot_here, packed(job, files, self._memory),
                    pure=False, retries=RETRIES, workers=self._able(client),
                ).result()  # fmt: skip
                came = pickle.loads(data)
                gone_since = None
                if isinstance(came, Lacks):
                    self._send(client, came)
                elif isinstance(came, Unable):
                    self._note(came)
                else:
                    return came  # type: ignore[no-any-return]
            except (CancelledError, OSError, TimeoutError, self._distributed.KilledWorker):
                now = time.monotonic()
                gone_since = gone_since or now
                if now - gone_since > PATIENCE_SECONDS:
                    raise ConnectError(
                        f"the scheduler at {self._address} has been gone for "
                        f"{PATIENCE_SECONDS:.0f} s",
                        "",
                        "start it again, then: hunt --resume DIR",
                    ) from None
                self._again(client)
        raise Stopped("told to stop")

    def _able(self, client: Any) -> list[str] | None:
        """The workers that can boot; None for any. Raises `QemuMissing` where there are none."""
        if not self._unable:
            return None
        workers = client.scheduler_info(n_workers=-1)["workers"]
        able = [address for address in workers if address not in self._unable]
        if not able and workers:
            raise QemuMissing("no worker of the cluster can boot", self._why, self._fix)
        return able or None

    def _note(self, unable: Any) -> None:
        with self._lock:
            if unable.address in self._unable:
                return
            self._unable.add(unable.address)
            self._why, self._fix = f"{unable.what} {unable.why}".strip(), unable.fix
        self._say(f"worker {unable.address} gets no more boots: {unable.what}")

    def _send(self, client: Any, lacks: Any) -> None:
        """Files to one worker; two boots of it may ask at once, and get them twice at most."""
        from breenix_gdbagent.fleet.remote import keep

        for file in lacks.files:
            data = self._paths[file].read_bytes()
            client.submit(
                keep, pickle.dumps((file, data)),
                workers=[lacks.address], pure=False,
            ).result()  # fmt: skip

    def _again(self, lost: Any) -> None:
        """A new connection in place of one that was lost; one thread makes it."""
        if self._over.wait(AGAIN_SECONDS):
            return
        with self._lock:
            if self._client is not lost or lost.status == "running":
                return
            with suppress(ConnectError):
                new = self._connect(CONNECT_SECONDS)
                with suppress(OSError, TimeoutError):
                    lost.close(timeout=1)
                self._client = new
                self._say(f"the scheduler at {self._address} is there again")

    def stop(self) -> None:
        """Boots that run end at once, without a result."""
        from breenix_gdbagent.fleet.remote import stop_boots

        self._over.set()
        with suppress(OSError, TimeoutError):
            self._client.run(stop_boots, on_error="ignore")
            self._client.close(timeout=5)

    def close(self) -> None:
        """Nothing of the hunt is left waiting."""
        self._over.set()
        with suppress(OSError, TimeoutError):
            self._client.close(timeout=5)
        self._pool.shutdown(cancel_futures=True)


def travelling(boots: Boots) -> tuple[Boots, dict[Any, Path]]:
    """What is booted as another machine can boot it: chosen here, its files by their hashes."""
    from breenix_gdbagent.fleet.remote import Sent

    _, machine = composed(boots, {})
    roles: list[tuple[str, Path]] = []
    if boots.kind == "breenix":
        assert machine.image is not None and machine.choice is not None
        roles = [("kernel", machine.image.path), ("image", machine.files[0])]
        roles += [("disk", path) for path in machine.files[1:]]
        boots = replace(boots, breenix=None, config=machine.choice.config)
    elif boots.kind == "kernel":
        assert boots.kernel is not None
        roles = [("kernel", boots.kernel), *(("disk", path) for path in boots.disks)]
    if boots.config is not None and boots.config.endswith(".toml"):
        roles.append(("config", Path(boots.config)))
    paths = {}
    for role, path in roles:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        paths[Sent(role, digest, path.name)] = path
    return boots, paths
