"""The stack matrix: how each address space maps each kernel stack.

The judgement is that of the check, `checks.kernel_stacks.compare`; here it is only put in rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from breenix_gdbagent.checks import kernel_stacks
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.stacks import KernelStack
from breenix_gdbagent.kernel.view import Kernel


class StackState(Enum):
    """How one stack stands in one space, worst first; a stack with several defects has the worst
    of them."""

    UNMAPPED = 1
    PARTLY_UNMAPPED = 2
    GUARD_MAPPED = 3
    USER_ACCESSIBLE = 4
    READ_ONLY = 5
    OTHER_FRAMES = 6
    EXECUTABLE = 7
    NOT_COMPARED = 8
    SOUND = 9


_OF_CODE = (
    (kernel_stacks.GUARD_MAPPED, StackState.GUARD_MAPPED),
    (kernel_stacks.USER_ACCESSIBLE, StackState.USER_ACCESSIBLE),
    (kernel_stacks.READ_ONLY, StackState.READ_ONLY),
    (kernel_stacks.DIFFERS, StackState.OTHER_FRAMES),
    (kernel_stacks.EXECUTABLE, StackState.EXECUTABLE),
)
"""What a stack that is mapped can suffer from, worst first."""


@dataclass(frozen=True, slots=True)
class StackRow:
    """One stack: its state in each space, in the matrix's order of spaces, and the CPUs whose RSP
    or TSS.RSP0 is on it (``RSP of CPU 0``)."""

    stack: KernelStack
    states: tuple[StackState, ...]
    users: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StackMatrix:
    """Kernel stacks by address, then IST stacks. No rows where no master PML4 is known."""

    rows: tuple[StackRow, ...] = ()


EMPTY = StackMatrix()


def stack_matrix(kernel: Kernel, spaces: Sequence[Space]) -> StackMatrix:
    """The matrix of all stacks in `spaces`. Raises `ReadError`."""
    states: dict[tuple[str, int], StackState] = {}
    for compared in kernel_stacks.compare(kernel):
        state = _state(compared)
        states.update(((compared.stack.name, space.root), state) for space in compared.spaces)
    if kernel.master is None:
        return EMPTY
    return StackMatrix(
        tuple(
            StackRow(
                stack,
                tuple(
                    states.get((stack.name, space.root), StackState.NOT_COMPARED)
                    for space in spaces
                ),
                tuple(_users(kernel, stack)),
            )
            for stack in (*kernel.stacks, *kernel.ist)
        )
    )


def _state(compared: kernel_stacks.Compared) -> StackState:
    """The worst that the check finds there."""
    if compared.reason is not None:
        return StackState.NOT_COMPARED
    wrong = compared.wrong
    missing = wrong.get(kernel_stacks.UNMAPPED) or wrong.get(kernel_stacks.IST_UNMAPPED)
    if missing:
        whole = len(missing) == len(compared.stack.pages)
        return StackState.UNMAPPED if whole else StackState.PARTLY_UNMAPPED
    return next((state for code, state in _OF_CODE if code in wrong), StackState.SOUND)


def _users(kernel: Kernel, stack: KernelStack) -> Iterator[str]:
    for cpu in kernel.stop.cpus:
        rsp = cpu.stack
        if rsp is not None and stack.holds(rsp):
            yield f"RSP of CPU {cpu.index}"
        tss = kernel.tss.get(cpu.index)
        if tss is not None and stack.ist is None and stack.holds(tss.rsp0):
            yield f"RSP0 of CPU {cpu.index}"
