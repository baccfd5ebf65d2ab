"""Backtraces of the CPUs and threads of one stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import no_paging
from breenix_gdbagent.symbols.backtrace import Backtrace
from breenix_gdbagent.symbols.unwind import Unwinder
from breenix_gdbagent.x86.cpu import Cpu

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.stacks import KernelStack
    from breenix_gdbagent.kernel.threads import Thread

GDB_NAMES = {"rflags": "eflags"}


def unwinder(kernel: Kernel, root: int) -> Unwinder:
    """An unwinder that reads under `root`. Raises `ReadError` without the kernel's ELF."""
    image = kernel.stop.loaded
    try:
        gates = {vector: int(gate.offset) for vector, gate in kernel.gates.items()}
    except ReadError:
        gates = {}
    return Unwinder(image, kernel.memory_of(root).read, gates)


def of_cpu(kernel: Kernel, cpu: Cpu) -> Backtrace:
    """Where `cpu` is, and how it came there. Raises `ReadError`."""
    if cpu.paging is None or cpu.root is None or "rip" not in cpu.registers:
        raise ReadError(f"{no_paging(cpu)}, where there are no kernel frames")
    return at_bottom(kernel, unwinder(kernel, cpu.root).backtrace(cpu.registers))


def of_thread(kernel: Kernel, thread: Thread, root: int) -> Backtrace:
    """A thread that does not run, from its saved context, read under `root`."""
    from breenix_gdbagent.kernel.threads import CONTEXT

    saved = thread.context
    if not saved.rsp:
        raise ReadError(f"no registers are saved for thread {thread.id}: RSP is 0 in its context")
    registers = {GDB_NAMES.get(name, name): saved.get(name) for name in CONTEXT}
    return at_bottom(kernel, unwinder(kernel, root).backtrace(registers))


def at_bottom(kernel: Kernel, found: Backtrace) -> Backtrace:
    """`found`, with a better reason for its end where that is simply the bottom of a stack."""
    last = found.frames[-1]
    if found.unreadable is None:
        return found
    stack = next((s for s in _stacks(kernel) if s.top == found.unreadable), None)
    if stack is None:
        return found
    end = f"{last.name} began at the top of {stack.name}: nothing called it"
    return replace(found, end=end, whole=True)


def _stacks(kernel: Kernel) -> Iterator[KernelStack]:
    """Kernel and IST stacks, by the reference root alone: `Kernel.stacks` looks through all RAM,
    which takes a minute where memory comes through the gdbstub."""
    from breenix_gdbagent.kernel.stacks import recognise_era, slot_stack, used_slots

    root = kernel.reference_root
    try:
        mapped = {} if root is None else kernel.kernel_leaves(root)
    except ReadError:
        mapped = {}
    era = recognise_era(mapped, kernel.adapter.eras)
    if era is not None:
        yield from (slot_stack(slot, era) for slot in used_slots(mapped, era))
    yield from kernel.ist
