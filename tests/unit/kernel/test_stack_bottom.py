"""Recursion found among return addresses."""

from __future__ import annotations

from breenix_gdbagent.kernel.stack_bottom import circle_of

A, B, C = 0x1000, 0x2000, 0x3000


def laid(*calls: tuple[int, int]) -> list[tuple[int, int]]:
    """(where, return address) of calls given as (return address, bytes up to the next)."""
    at, found = 0x8000, []
    for address, size in calls:
        found.append((at, address))
        at += size
    return found


def test_functions_that_call_each_other() -> None:
    found = circle_of(laid(*[(A, 0x20), (B, 0x30)] * 9, (C, 0x40)))
    assert found is not None
    assert (found.returns, found.rounds, found.size) == ((A, B), 9, 0x50)


def test_a_few_rounds_may_be_of_another_size() -> None:
    calls = [(A, 0x20)] * 5 + [(A, 0x40)] + [(A, 0x20)] * 5
    found = circle_of(laid(*calls))
    assert found is not None and (found.rounds, found.size) == (11, 0x20)


def test_calls_without_a_circle() -> None:
    assert circle_of([]) is None
    assert circle_of(laid((A, 8), (B, 8), (C, 8), (A, 8), (A, 8))) is None
    scattered = [(A, 0x10 * n * n + 8) for n in range(12)]
    assert circle_of(laid(*scattered)) is None
