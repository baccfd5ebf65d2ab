"""The scheduler (Breenix: kernel/src/task/scheduler.rs), one queue (2025) or one a CPU (2026)."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.processes import MOST_THREADS
from breenix_gdbagent.kernel.threads import Thread, read_thread
from breenix_gdbagent.kernel.typed import held, number, numbers, optional, static_of
from breenix_gdbagent.symbols.values import Value, Values

SCHEDULER = "kernel::task::scheduler::SCHEDULER"
MOST_CPUS = 256


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Threads (the scheduler's copies), ready queues, and who runs, by CPU index.

    `locked` is the lock byte: what is read while it is taken may be half changed. `on_the_way` are
    threads between a queue and a CPU (2026: the one before, and the one that comes next).
    """

    threads: tuple[Thread, ...]
    ready: tuple[tuple[int, ...], ...]
    current: tuple[int | None, ...]
    idle: tuple[int | None, ...]
    locked: bool | None
    on_the_way: frozenset[int] = frozenset()

    def thread(self, thread_id: int) -> Thread | None:
        return next((t for t in self.threads if t.id == thread_id), None)

    def thread_at(self, address: int) -> Thread | None:
        """The thread whose structure lies at `address` (what gs:8 points to)."""
        return next((t for t in self.threads if t.address == VirtAddr(address)), None)

    def current_of(self, cpu: int) -> int | None:
        """The id of the thread that the scheduler has on a CPU."""
        return self.current[cpu] if cpu < len(self.current) else None


def read_scheduler(values: Values) -> Scheduler:
    """The scheduler. Raises `ReadError` when it does not exist yet or cannot be read."""
    static = static_of(values, SCHEDULER, "SCHEDULER")
    inside = static.some()
    if inside is None:
        raise ReadError("the kernel has no scheduler yet")
    threads = tuple(
        read_thread(boxed.deref(), "scheduler") for boxed in inside["threads"].items(MOST_THREADS)
    )
    ready, current, idle = _of_cpus(inside)
    return Scheduler(threads, ready, current, idle, held(static), _on_the_way(inside))


def _on_the_way(inside: Value) -> frozenset[int]:
    states = inside.field("cpu_state")
    names = ("previous_thread", "pending_next")
    cells = () if states is None else states.items(MOST_CPUS)
    found = (optional(state, name) for state in cells for name in names)
    return frozenset(one for one in found if one is not None)


def _of_cpus(
    inside: Value,
) -> tuple[tuple[tuple[int, ...], ...], tuple[int | None, ...], tuple[int | None, ...]]:
    states = inside.field("cpu_state")
    if states is None:
        queue = numbers(inside.field("ready_queue"), MOST_THREADS)
        return (
            (queue,),
            (optional(inside, "current_thread"),),
            (number(inside, "idle_thread"),),
        )
    current, idle = [], []
    for state in states.items(MOST_CPUS):
        current.append(optional(state, "current_thread"))
        idle.append(number(state, "idle_thread"))
    queues = inside.field("per_cpu_queues")
    ready = () if queues is None else tuple(numbers(q, MOST_THREADS) for q in queues.items())
    return ready, tuple(current), tuple(idle)
