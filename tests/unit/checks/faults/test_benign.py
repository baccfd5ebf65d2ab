"""Faults that the kernel lives on, told from the frame and one walk."""

from __future__ import annotations

import pytest

from breenix_gdbagent.checks.faults import recognised
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.paging import Tables
from tests.writers.machine import CODE, DATA, NX, TEXT, USER_STACK, Machine
from tests.writers.tables import P, U, W

COW = 1 << 9


def said(stop: Stop, vector: int = 14, *, grows: bool = True) -> str:
    found = recognised(stop.cpu, vector, Tables(stop.memory), grows=grows)
    return "" if found is None else found.how


def marked() -> Machine:
    m = Machine()
    m.change(DATA, clear=W, add=COW)
    return m


def test_copy_on_write_in_both_rings() -> None:
    assert said(marked().fault(14, CODE, error=7, cr2=DATA)) == "copy-on-write"
    assert said(marked().fault(14, TEXT, ring=0, error=3, cr2=DATA)) == "copy-on-write"


@pytest.mark.parametrize("error", [0x5, 0x15, 0x6, 0xF & ~2])
def test_mutations_of_the_error_code(error: int) -> None:
    assert not said(marked().fault(14, CODE, error=error, cr2=DATA))


def test_mutations_of_the_entry() -> None:
    m = Machine()
    m.change(DATA, clear=W)
    assert not said(m.fault(14, CODE, error=7, cr2=DATA)), "no mark"
    m = Machine()
    m.change(DATA, add=COW)
    assert not said(m.fault(14, CODE, error=7, cr2=DATA)), "writable"
    m = marked()
    pde = m.root  # no W further up: the copy would not help
    m.set_entry(pde, m.entry(pde) & ~W)
    assert not said(m.fault(14, CODE, error=7, cr2=DATA))


def test_another_vector_or_no_registers() -> None:
    stop = marked().fault(14, CODE, error=7, cr2=DATA)
    assert not said(stop, 13)
    known = {n: v for n, v in stop.cpu.registers.items() if n != "cr2"}
    assert not said(stop._replace(cpus=(stop.cpu._replace(registers=known),)))


@pytest.mark.parametrize(
    ("below", "error", "grows", "expected"),
    [
        (0x8, 6, True, True),
        (0xFFF8, 6, True, True),
        (0x1_0FF8, 6, True, False),
        (0x8, 4, True, True),
        (0x8, 2, True, False),
        (0x8, 0x14, True, False),
        (0x8, 6, False, False),
    ],
)
def test_growth_is_within_64_kib_of_a_user_stack(
    below: int, error: int, grows: bool, expected: bool
) -> None:
    m = Machine()
    base = USER_STACK + 0x20000
    m.map(base, P | W | U | NX)
    stop = m.fault(14, CODE, error=error, cr2=base - below)
    assert bool(said(stop, grows=grows)) is expected


def test_below_other_user_memory_nothing_grows() -> None:
    m = Machine()
    assert not said(m.fault(14, CODE, error=6, cr2=CODE - 8))
