"""The frames of CPUs and threads, each to be unwound when it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.symbols.backtrace import Backtrace

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.threads import Thread

Traces = Iterator[tuple[str, Callable[[], Backtrace]]]
"""(whose frames, what unwinds them). As the functions here `InputError` and `ReadError` come out
while they are gone through."""


def number_of(text: str, what: str) -> int:
    """The number of a CPU, process or thread as text. Raises `InputError`."""
    number = parse_number(text)
    if number is None:
        raise InputError(f"{text!r} is no number of a {what}", fix="write it as 0, 1, 2, ...")
    return number


def of_cpus(kernel: Kernel, only: str | None, root: int | None = None) -> Traces:
    """Each CPU, with the thread that it runs where that is known; read under `root` where given."""
    from breenix_gdbagent.kernel import trace

    chosen = None if only is None else number_of(only, "CPU")
    if chosen is not None and all(c.index != chosen for c in kernel.stop.cpus):
        there = ", ".join(str(cpu.index) for cpu in kernel.stop.cpus)
        raise InputError(f"there is no CPU {chosen}", fix=f"there are: {there}")
    for cpu in kernel.stop.cpus:
        if chosen in (None, cpu.index):
            yield f"CPU {cpu.index}", partial(trace.of_cpu, kernel, cpu, root)


def others(kernel: Kernel) -> Traces:
    """The threads that no CPU runs."""
    try:
        scheduler = kernel.structures.scheduler
    except ReadError as error:
        yield "threads", partial(_raise, error)
        return
    yield from of_threads(kernel, {t.id for t in scheduler.threads} - set(scheduler.current))


def _raise(error: ReadError) -> Backtrace:
    raise error


def of_process(kernel: Kernel, text: str) -> Traces:
    """The threads of a process; without the kernel's types what its address space tells."""
    pid = number_of(text, "process")
    try:
        process = kernel.structures.processes.by_pid(pid)
    except ReadError as error:
        yield from _by_root(kernel, pid, error)
        return
    if process is None:
        raise InputError(f"there is no process {pid}", fix="see: ps")
    own = {process.thread.id} if process.thread is not None else set()
    yield from of_threads(kernel, {*process.thread_ids, *own})


def _by_root(kernel: Kernel, pid: int, lacking: ReadError) -> Traces:
    """The CPUs that run in a process's address space, where the serial text names its root."""
    from breenix_gdbagent.kernel import trace

    space = next((s for s in kernel.spaces if s.pid == pid), None)
    if space is None:
        raise ReadError(f"{lacking.what}, and nothing else names a process {pid}")
    inside = [cpu for cpu in kernel.stop.cpus if cpu.root == space.root]
    if not inside:
        raise ReadError(
            f"{space.label} does not run, and where the registers of its thread are saved is not "
            f"known: {lacking.what}"
        )
    for cpu in inside:
        yield f"{space.label}, on CPU {cpu.index}", partial(trace.of_cpu, kernel, cpu)


def of_threads(kernel: Kernel, wanted: set[int]) -> Traces:
    from breenix_gdbagent.kernel import trace

    scheduler = kernel.structures.scheduler
    found = [t for t in scheduler.threads if t.id in wanted]
    if wanted and not found:
        raise InputError(
            f"the scheduler has no thread {', '.join(map(str, sorted(wanted)))}", fix="see: threads"
        )
    for thread in found:
        title = f"thread {thread.id} {thread.name} ({thread.state})"
        if thread.id in scheduler.current:
            cpu = scheduler.current.index(thread.id)
            at = kernel.stop.cpus[min(cpu, len(kernel.stop.cpus) - 1)]
            yield f"{title}, on CPU {cpu}", partial(trace.of_cpu, kernel, at)
        else:
            yield title, partial(_of_thread, kernel, thread)


def _of_thread(kernel: Kernel, thread: Thread) -> Backtrace:
    """From the copy that has its registers, in the address space of its process."""
    from breenix_gdbagent.kernel import trace

    try:
        owner = kernel.structures.processes.by_thread(thread.id)
    except ReadError:
        owner = None
    root = owner.effective_root if owner is not None else None
    # Breenix saves a user thread in Process.main_thread (context_switch.rs of both eras); the
    # scheduler's copy has what it was made with.
    copy = owner.thread if owner is not None else None
    if thread.user and copy is not None and copy.id == thread.id:
        thread = copy
    used = root if root is not None else kernel.reference_root or 0
    return trace.of_thread(kernel, thread, PhysAddr(used))
