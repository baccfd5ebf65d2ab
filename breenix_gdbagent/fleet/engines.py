"""What runs boots: threads of this process, or a Dask cluster, both as an ``Executor``."""

from __future__ import annotations

import os
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from breenix_gdbagent.fleet.boot import RUNNING, Job, boot
from breenix_gdbagent.fleet.result import Result

MARGIN = 96 << 20
"""Bytes of the host's memory that a boot takes besides the guest's RAM: QEMU's own, and ours."""


class Engine(Protocol):
    """Runs boots. `name` is for people; `slots` is how many it runs at once."""

    name: str

    @property
    def slots(self) -> int:
        """How many boots run at once, now."""

    def submit(self, job: Job) -> Future[Result]:
        """One boot, some time."""

    def stop(self) -> None:
        """Boots that run end at once, without a result."""

    def close(self) -> None:
        """Nothing of it is left running."""


class Threads:
    """Threads of this process, a boot each at a time. A boot waits for QEMU most of the time."""

    def __init__(self, jobs: int) -> None:
        RUNNING.again()
        self.name = f"{jobs} thread{'s' * (jobs != 1)}"
        self.slots = jobs
        self._pool: Executor = ThreadPoolExecutor(jobs, thread_name_prefix="boot")

    def submit(self, job: Job) -> Future[Result]:
        """One boot, as soon as a thread is free."""
        return self._pool.submit(boot, job)

    def stop(self) -> None:
        """Boots that run end at once, without a result."""
        RUNNING.stop()

    def close(self) -> None:
        """Waits for what runs."""
        self._pool.shutdown(cancel_futures=True)
        RUNNING.again()


def fitting(memory: int) -> int:
    """How many boots of a guest with `memory` bytes this machine's cores and free RAM allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _available() // (memory + MARGIN)))


def _available() -> int:
    """Bytes that can be had without swapping (``MemAvailable``, proc(5)); much, where not told."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 1 << 62
