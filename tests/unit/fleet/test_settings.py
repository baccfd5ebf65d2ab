"""Settings drawn: the same for a boot wherever it runs, and within what QEMU takes."""

from __future__ import annotations

import pytest

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.fleet.settings import CPUS, DIMENSIONS, SHIFTS, draw, factors, parse_vary

MEMORY = 128 << 20
ALL = tuple(DIMENSIONS)


def test_a_boot_has_the_same_settings_wherever_it_is_drawn() -> None:
    assert draw(7, 41, ALL, MEMORY) == draw(7, 41, ALL, MEMORY)
    assert draw(7, 41, ALL, MEMORY) != draw(8, 41, ALL, MEMORY)
    assert draw(7, 41, ALL, MEMORY) != draw(7, 42, ALL, MEMORY)


def test_a_dimension_is_drawn_the_same_whatever_else_is_varied() -> None:
    whole = draw(7, 3, ALL, MEMORY)
    for name in ALL:
        assert draw(7, 3, (name,), MEMORY) == {name: whole[name]}


def test_every_value_comes_and_no_other() -> None:
    drawn = [draw(1, n, ALL, MEMORY) for n in range(400)]
    assert {d["smp"] for d in drawn} == set(CPUS)
    assert {d["clock"] for d in drawn} == set(SHIFTS)
    assert {d["memory"] for d in drawn} == set(range(128, 513, 8))
    assert {factors(d)["memory"] for d in drawn} == {
        "128 to 255 MiB", "256 to 511 MiB", "512 to 1023 MiB",
    }  # fmt: skip
    assert {factors(d)["irq"] for d in drawn} == {"none", "key", "serial", "nmi"}
    assert {factors(d)["smp"] for d in drawn} == {"1 CPU", "2 CPUs", "4 CPUs"}


def test_what_cannot_be_varied_is_refused_with_what_can() -> None:
    assert parse_vary("irq,seed") == ("seed", "irq")
    with pytest.raises(InputError, match="moon"):
        parse_vary("seed,moon")
    with pytest.raises(InputError, match="nothing"):
        parse_vary(",")
