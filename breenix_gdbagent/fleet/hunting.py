"""The loop of a hunt: boots are handed out, each result is kept as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from breenix_gdbagent.fleet.boot import Boots, Job
from breenix_gdbagent.fleet.engines import Engine
from breenix_gdbagent.fleet.result import Result
from breenix_gdbagent.fleet.settings import draw
from breenix_gdbagent.fleet.store import Store

CHUNK = 512
AHEAD = 2
"""Boots handed out for each that runs: none waits for the next one's words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a hunt is to do. `memory` is the machine's RAM in bytes; `until_found` a code or a
    fingerprint; `max_seconds` of this run of the hunt, None without an end."""

    boots: Boots
    number: int
    seed: int
    vary: tuple[str, ...]
    memory: int
    until_found: str | None = None
    max_seconds: float | None = None


Told = Callable[[Result], None]


def hunt(store: Store, plan: Plan, engine: Engine, told: Told) -> str:
    """Run what is not kept yet; why it ended: ``all``, ``found``, ``time``. What was kept stays
    whatever is raised. `told` hears of each new result."""
    began = time.monotonic()
    numbers = _open(store, plan.number)
    pending: set[Future[Result]] = set()
    try:
        while True:
            if plan.until_found is not None and store.has(plan.until_found):
                return "found"
            left = _left(plan, began)
            if left is not None and left <= 0:
                return "time"
            _hand_out(store, plan, engine, numbers, pending)
            if not pending:
                return "all"
            done, rest = wait(pending, timeout=left, return_when=FIRST_COMPLETED)
            pending = set(rest)
            for future in done:
                result = future.result()
                if store.add(result):
                    told(result)
    finally:
        for future in pending:
            future.cancel()
        engine.stop()
        wait(pending)


def _hand_out(
    store: Store, plan: Plan, engine: Engine, numbers: Iterator[int], pending: set[Future[Result]]
) -> None:
    """As many boots as keep the engine busy."""
    known = store.known()
    while len(pending) < AHEAD * engine.slots:
        number = next(numbers, None)
        if number is None:
            return
        settings = draw(plan.seed, number, plan.vary, plan.memory)
        pending.add(engine.submit(Job(number, plan.boots, settings, known)))


def _open(store: Store, number: int) -> Iterator[int]:
    """Numbers of the boots that are not kept, a part of them at a time."""
    for start in range(0, number, CHUNK):
        some = range(start, min(start + CHUNK, number))
        done = store.done(some)
        yield from (n for n in some if n not in done)


def _left(plan: Plan, began: float) -> float | None:
    if plan.max_seconds is None:
        return None
    return plan.max_seconds - (time.monotonic() - began)
