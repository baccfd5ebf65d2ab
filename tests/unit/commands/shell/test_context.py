"""Pieces of the view that need no guest: stops made by a test, and cores that lack things."""

from __future__ import annotations

import re

import pytest

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.commands.shell import context
from breenix_gdbagent.commands.shell.session import space_label
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.ink import PLAIN
from breenix_gdbagent.stop import StopReason
from tests.unit.captures import capture
from tests.unit.checks.mutation import saved
from tests.writers.machine import HEAP, TEXT, Machine, stack_top


def stopped(**registers: int) -> Kernel:
    machine = Machine()
    machine.write(HEAP, bytes(range(64)))
    machine.code(TEXT, "90 90 c3")
    cpu = machine.cpu(**{"rip": TEXT, "rsp": HEAP, **registers})
    return Kernel(machine.stop(StopReason("attached"), cpu))


def test_the_stack_ends_where_nothing_is_mapped() -> None:
    top = stack_top(1)
    lines = list(context.stack(stopped(rsp=top - 16), PLAIN, 8))
    assert lines[0].endswith(", slot 1")
    assert len(lines) == 4
    assert lines[-1].endswith("not mapped: the end of the stack")


def test_words_of_the_stack() -> None:
    lines = list(context.stack(stopped(), PLAIN, 2))
    assert lines[1:] == ["  +0   0x706050403020100", "  +8   0xf0e0d0c0b0a0908"]


def test_what_a_core_lacks_is_not_called_unmapped() -> None:
    """Linux's stack is mapped; the capture does not hold it."""
    kernel = Kernel(saved("linux-pti"))
    rsp = kernel.stop.cpu.rsp
    assert kernel.walk(kernel.stop.cpu.root or 0, VirtAddr(rsp)).mapped
    line = list(context.stack(kernel, PLAIN, 4))[-1]
    assert "cannot be read" in line and "not mapped" not in line


def test_a_bare_core_has_no_time() -> None:
    assert re.search(r"\d s\b", context.who(Kernel(saved("linux-pti")))) is None


@pytest.mark.parametrize("name", ["breenix-first-gp", "breenix-head-cow-fault"])
def test_the_space_of_a_fault_in_a_capture(name: str) -> None:
    assert capture(name).is_dir()
    kernel = Kernel(saved(name))
    assert space_label(kernel)
    assert context.who(kernel).startswith(f"CPU 0 ring 0, {space_label(kernel)}")


def test_code_without_symbols() -> None:
    lines = list(context.code(stopped(), PLAIN, TEXT, 2))
    assert lines[0].startswith(f"=> {TEXT:#x}  nop")
    assert lines[1].startswith(f"   {TEXT + 1:#x}  nop")


def test_code_without_paging() -> None:
    assert "no code is shown" in next(context.code(stopped(cr0=0x11), PLAIN, TEXT))
