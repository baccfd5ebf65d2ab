"""What a thread gets back against what it had, with a guest that is made of numbers: a sound course
of entries and returns, and one thing changed in it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from breenix_gdbagent.debugger.interrupt_check import InterruptCheck, gates_of
from breenix_gdbagent.entrycode.values import REGISTERS

CODES = ("context.registers-changed",)
TIMER, SYSCALL, FAULT, LEAVE = 0x1000, 0x2000, 0x3000, 0x4000
ROOT, OTHER = 0x7000, 0x8000
USER, KERNEL = 0x33, 0x08


def gate(vector_of: int, dpl: int = 0) -> bytes:
    low, middle, high = vector_of & 0xFFFF, vector_of >> 16 & 0xFFFF, vector_of >> 32
    return struct.pack("<HHBBHI4x", low, 8, 0, 0x8E | dpl << 5, middle, high)


IDT = b"".join(
    {32: gate(TIMER), 0x80: gate(SYSCALL, 3), 14: gate(FAULT)}.get(n, bytes(16)) for n in range(256)
)


class Guest:
    """One stack in memory, and the check that looks at each stop."""

    def __init__(self) -> None:
        self.memory: dict[int, bytes] = {}
        vm = SimpleNamespace(read_or_none=self.read, observer=None)
        self.check = InterruptCheck(cast(Any, vm), cast(Any, object()))
        self.check.gates = gates_of(IDT)
        self.check.leaves = {LEAVE: "iretq"}
        self.values = {name: 0x100 + n for n, name in enumerate(REGISTERS)}

    def read(self, va: int, length: int) -> bytes | None:
        return self.memory.get(va)

    def stop(
        self, rip: int, at: int, back: int = 0x400100, rsp: int = 0x7FFF00, cs: int = USER,
        root: int = ROOT, frame: int = 0x9000, **changed: int,
    ) -> None:  # fmt: skip
        self.memory = {at: struct.pack("<5Q", back, cs, 0x202, rsp, 0x2B)}
        registers = {**self.values, **changed, "rip": rip, "rsp": frame, "cr3": root}
        self.check.seen(registers)

    def enter(self, handler: int, **how: int) -> None:
        at = 0x9008 if handler == FAULT else 0x9000
        self.stop(handler, at, **how)

    def leave(self, **how: int) -> None:
        self.stop(LEAVE, 0x9000, **how)

    @property
    def changed(self) -> dict[str, int]:
        return {n: c for t in self.check.tallies.values() for n, c in t.each.items()}

    @property
    def returns(self) -> int:
        return sum(t.returns for t in self.check.tallies.values())


@pytest.mark.parametrize("handler", [TIMER, SYSCALL, FAULT])
def test_a_sound_return(handler: int) -> None:
    guest = Guest()
    guest.enter(handler)
    guest.leave()
    assert guest.returns == 1 and not guest.changed and not guest.check.lacking


@pytest.mark.parametrize("name", REGISTERS)
def test_one_register_is_another(name: str) -> None:
    guest = Guest()
    for times in range(3):
        guest.enter(TIMER)
        guest.leave(**({name: 0xBAD} if times else {}))
    assert guest.returns == 3 and guest.changed == {name: 2}
    (tally,) = guest.check.tallies.values()
    assert tally.changed == 2 and tally.values[name] == (guest.values[name], 0xBAD)
    assert tally.handlers == {TIMER: (32,)} and (tally.ring, tally.leave) == (3, LEAVE)


def test_a_system_call_answers_in_rax_and_nowhere_else() -> None:
    guest = Guest()
    guest.enter(SYSCALL)
    guest.leave(rax=0)
    assert guest.returns == 1 and not guest.changed
    guest.enter(SYSCALL)
    guest.leave(rax=0, rdx=0)
    assert guest.changed == {"rdx": 1}
    guest.enter(FAULT)
    guest.leave(rax=0)
    assert guest.changed == {"rdx": 1, "rax": 1}


def exec_(guest: Guest) -> None:
    guest.leave(back=0x400000, rsp=0x7FFFF0)


def signal(guest: Guest) -> None:
    guest.leave(back=0x400500, rsp=0x7FFE00, rdi=9)
    guest.enter(SYSCALL, back=0x400510, rsp=0x7FFE00)


def another_space(guest: Guest) -> None:
    guest.leave(root=OTHER, rcx=0)


@pytest.mark.parametrize("what", [exec_, signal, another_space])
def test_what_may_change_them(what: Callable[[Guest], None]) -> None:
    """exec, and a signal's handler whose sigreturn gives other registers; another process at the
    same addresses."""
    guest = Guest()
    guest.enter(SYSCALL)
    what(guest)
    if what is not another_space:
        guest.leave(rcx=0xBAD, rbx=0xBAD)
    assert not guest.changed


def test_another_thread_runs_meanwhile() -> None:
    """Each is compared with its own, whatever the order; in ring 0 without the space."""
    guest = Guest()
    guest.enter(TIMER)
    guest.enter(TIMER, back=0x5000, rsp=0xFFFF_8000, cs=KERNEL, rbx=7)
    guest.leave()
    guest.leave(back=0x5000, rsp=0xFFFF_8000, cs=KERNEL, root=OTHER, rbx=7)
    assert guest.returns == 2 and not guest.changed
    assert {t.ring for t in guest.check.tallies.values()} == {0, 3}


def test_nothing_compared_is_not_passed() -> None:
    guest = Guest()
    guest.enter(TIMER)
    assert guest.check.lacking
