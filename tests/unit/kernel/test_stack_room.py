"""What is free of a stack and how deep it was used, in a machine made by hand and in captures."""

from __future__ import annotations

import struct

import pytest

from breenix_gdbagent.kernel.stack_room import Room, room_of
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import StopReason
from tests.unit.captures import BREENIX
from tests.unit.checks.mutation import saved
from tests.writers.machine import STACKS, TEXT, Machine, stack_top

BOTTOM, TOP = STACKS + 0x11000 + 0x1000, stack_top(1)


def room(m: Machine, rsp: int) -> Room:
    cpu = m.cpu(rip=TEXT, rsp=rsp, cs=8, ss=0, eflags=2)
    kernel = Kernel(m.stop(StopReason("interrupt"), cpu))
    return room_of(kernel, next(s for s in kernel.stacks if s.top == TOP))


def put(m: Machine, va: int, word: int) -> None:
    m.write(va, struct.pack("<Q", word))


def test_free_below_the_stack_pointer_of_a_cpu() -> None:
    assert room(Machine(), TOP - 0x120).free == TOP - 0x120 - BOTTOM
    assert room(Machine(), stack_top(0) - 8) == Room(None, None)


def test_the_lowest_address_of_the_stack_itself_is_the_deepest_use() -> None:
    m = Machine()
    put(m, TOP - 0x100, TOP - 0x40)
    put(m, BOTTOM + 0x2348, TOP - 0x200)
    put(m, BOTTOM + 0x1000, stack_top(0) - 8)  # another stack's: what a frame held before
    put(m, BOTTOM + 0x1104, TOP - 8)  # not at the place of a word
    put(m, BOTTOM + 0x40, 0x1234_5678)
    assert room(m, TOP).deepest == BOTTOM + 0x2348


def test_an_unused_stack_has_no_trace() -> None:
    assert room(Machine(), TOP) == Room(TOP - BOTTOM, None)


@pytest.mark.parametrize("name", BREENIX)
def test_what_a_capture_lacks_is_not_taken_for_unused(name: str) -> None:
    """Only the top four pages of each stack are there."""
    kernel = Kernel(saved(name))
    rooms = [room_of(kernel, stack) for stack in kernel.stacks]
    assert rooms and all(r.deepest is None and r.unread for r in rooms if r.unread)
    assert any(r.unread for r in rooms)
