"""Backtraces of the CPUs and threads of one stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import no_paging
from breenix_gdbagent.symbols.backtrace import Backtrace
from breenix_gdbagent.symbols.unwind import Unwinder

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.stacks import KernelStack
    from breenix_gdbagent.kernel.threads import Thread
    from breenix_gdbagent.symbols.linked import LinkedUnwinder

GDB_NAMES = {"rflags": "eflags"}


def unwinder(kernel: Kernel, root: int, *others: int) -> Unwinder | LinkedUnwinder:
    """An unwinder that reads under `root`, and what that does not map under the first of `others`
    that does. Raises `ReadError` without the kernel's ELF."""
    image = kernel.stop.loaded
    names = kernel.arch.names
    if names.link:
        from breenix_gdbagent.symbols.linked import LinkedUnwinder

        vectors = kernel.stop.cpu.get("vbar_el1")
        read = _reader(kernel, (root, *others))
        return LinkedUnwinder(image, read, names, vectors, kernel.arch.vectors)
    try:
        gates = {vector: int(gate.offset) for vector, gate in kernel.gates.items()}
    except ReadError:
        gates = {}
    return Unwinder(image, _reader(kernel, (root, *others)), gates)


def _reader(kernel: Kernel, roots: Sequence[int]) -> Callable[[int, int], bytes]:
    """Reads under the first root that maps the address; as the first does where none does."""

    def read(va: int, length: int) -> bytes:
        for root in roots[1:]:
            if not kernel.walk(roots[0], va).mapped and kernel.walk(root, va).mapped:
                return kernel.memory_of(root).read(va, length)
        return kernel.memory_of(roots[0]).read(va, length)

    return read


def of_cpu(kernel: Kernel, cpu: Cpu, root: int | None = None) -> Backtrace:
    """Where `cpu` is, and how it came there; read under `root` where one is given. Where CR3 does
    not map the stack, the frames are read through a space that does, and `end` says so. Raises
    `ReadError`."""
    if cpu.paging is None or cpu.root is None or cpu.at is None:
        raise ReadError(f"{no_paging(cpu)}, where there are no kernel frames")
    if root is not None:
        found = at_bottom(kernel, unwinder(kernel, root).backtrace(cpu.registers))
        return replace(found, end=f"{found.end} (read under {hex64(root)})")
    found = at_bottom(kernel, unwinder(kernel, cpu.root).backtrace(cpu.registers))
    return found if found.whole else _through_another(kernel, cpu, cpu.root, found)


def _through_another(kernel: Kernel, cpu: Cpu, root: int, found: Backtrace) -> Backtrace:
    """`found`, or the frames that a space shows which maps the stack that `root` does not."""
    lost = found.unreadable or int(found.frames[-1].sp)
    if kernel.walk(root, lost).mapped:
        return found
    other = next((r for r in _maybe(kernel, cpu) if kernel.walk(r, lost).mapped), None)
    if other is None:
        return found
    more = at_bottom(kernel, unwinder(kernel, root, other).backtrace(cpu.registers))
    if len(more.frames) <= len(found.frames):
        return found
    space = kernel.space_of(other)
    named = hex64(other) if space is None else f"{hex64(other)}, {space.label}"
    told = f"CR3 {hex64(root)} does not map this stack: it was read through {named}"
    return replace(more, end=f"{more.end} ({told})")


def _maybe(kernel: Kernel, cpu: Cpu) -> Iterator[int]:
    """Roots that may map a kernel stack, the likeliest first."""
    block = kernel.percpu_of(cpu)
    named = () if block is None else (int(block.kernel_cr3), int(block.saved_process_cr3))
    known = {space.root for space in kernel.spaces}
    yield from (root for root in named if root in known)
    if kernel.reference_root is not None:
        yield kernel.reference_root
    yield from (space.root for space in kernel.spaces if space.role in ("master", "process"))


def of_thread(kernel: Kernel, thread: Thread, root: int) -> Backtrace:
    """A thread that does not run, from its saved context, read under `root`."""
    from breenix_gdbagent.kernel.threads import CONTEXT

    saved = thread.context
    if not saved.rsp:
        raise ReadError(f"no registers are saved for thread {thread.id}: RSP is 0 in its context")
    names = kernel.arch.names
    if names.link:
        registers = dict(zip(saved.names, saved.registers, strict=True))
        registers |= {names.pc: saved.rip, names.flags: saved.get("spsr_el1")}
    else:
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
