"""Threads as Breenix keeps them (kernel/src/task/thread.rs).

A user thread stands in memory twice: the scheduler's copy knows its state and kernel stack, the
process's copy holds the saved registers. `copy` says which one was read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.kernel.typed import flag, number, optional
from breenix_gdbagent.symbols.values import Value

Copy = Literal["scheduler", "process"]

CONTEXT = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip", "rflags", "cs", "ss",
)  # fmt: skip
_CONTEXT_SIZE = 8 * len(CONTEXT)
_LINKED = (*(f"x{n}" for n in range(31)), "sp", "sp_el0", "elr_el1", "spsr_el1")
"""The same of aarch64."""
_ALIKE = {"rip": "elr_el1", "rsp": "sp", "rflags": "spsr_el1"}


@dataclass(frozen=True, slots=True)
class SavedContext:
    """Registers saved for a thread that does not run (CpuContext, ``repr(C)``), by `names`."""

    registers: tuple[int, ...]
    names: tuple[str, ...] = CONTEXT

    def get(self, name: str) -> int:
        """A register by its name; of aarch64 also what is like it there."""
        if name not in self.names:
            name = _ALIKE[name]
        return self.registers[self.names.index(name)]

    @property
    def rip(self) -> VirtAddr:
        return VirtAddr(self.get("rip"))

    @property
    def rsp(self) -> VirtAddr:
        return VirtAddr(self.get("rsp"))

    @property
    def cs(self) -> int:
        """CS; of aarch64, which has none, 3 for EL0 and 0 for another level."""
        if self.names is not CONTEXT:
            return 0 if self.get("spsr_el1") & 0xF else 3
        return self.get("cs") & 0xFFFF

    @property
    def cpl(self) -> int:
        """The ring that CS would return to."""
        return self.cs & 3


@dataclass(frozen=True, slots=True)
class Thread:
    """One copy of a thread. `address` is where it lies; what the kernel's shape lacks is None.

    `stack_top` and `stack_bottom` are the user stack of a user thread, `kernel_stack_top` is
    exclusive, `kernel_stack_slot` the index that it owns.
    """

    copy: Copy
    address: VirtAddr | None
    id: int
    name: str
    state: str
    privilege: str
    context: SavedContext
    kernel_stack_top: VirtAddr | None
    kernel_stack_slot: int | None
    stack_bottom: VirtAddr
    stack_top: VirtAddr
    priority: int | None
    has_started: bool | None
    blocked_in_syscall: bool | None
    owner_pid: int | None

    @property
    def user(self) -> bool:
        return self.privilege == "User"

    @property
    def alive(self) -> bool:
        return self.state != "Terminated"


def read_thread(value: Value, copy: Copy) -> Thread:
    """One `Thread` (behind a `Box` or in place). Raises `ReadError`."""
    top = optional(value, "kernel_stack_top")
    owned = value.field("kernel_stack_allocation")
    inside = None if owned is None else owned.some()
    address = value["id"].address
    offset = value.type.member("id")
    if address is not None and offset is not None:
        address -= offset.offset
    return Thread(
        copy=copy,
        address=None if address is None else VirtAddr(address),
        id=value["id"].integer(),
        name=value["name"].text(256),
        state=value["state"].variant()[0],
        privilege=value["privilege"].variant()[0],
        context=read_context(value["context"]),
        kernel_stack_top=None if top is None else VirtAddr(top),
        kernel_stack_slot=None if inside is None else number(inside, "index"),
        stack_bottom=VirtAddr(value["stack_bottom"].integer()),
        stack_top=VirtAddr(value["stack_top"].integer()),
        priority=number(value, "priority"),
        has_started=flag(value, "has_started"),
        blocked_in_syscall=flag(value, "blocked_in_syscall"),
        owner_pid=optional(value, "owner_pid"),
    )


def read_context(value: Value) -> SavedContext:
    """A ``CpuContext``: in one read where it lies as its ``repr(C)`` says. Raises `ReadError`."""
    if value.type.size == _CONTEXT_SIZE and value.type.member("rip") is not None:
        return SavedContext(struct.unpack(f"<{len(CONTEXT)}Q", value.read(0, _CONTEXT_SIZE)))
    if value.type.member("elr_el1") is not None:
        return SavedContext(tuple(value[name].integer() for name in _LINKED), _LINKED)
    return SavedContext(tuple(value[name].integer() for name in CONTEXT))
