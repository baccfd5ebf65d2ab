"""Widths, flags and digits as Rust writes them (each line of the table is rustc 1.95's own)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from breenix_gdbagent.symbols.rust_format import Spec, address, boolean, character, integer, real

UNKNOWN_ALIGN = 3 << 29 | ord(" ")
ALTERNATE, ZERO, PLUS = 1 << 23, 1 << 24, 1 << 21


def spec(trait: str, flags: int = 0, width: int = 0, precision: int | None = None) -> Spec:
    return replace(Spec.of(UNKNOWN_ALIGN | flags, width, precision), trait=trait)


@pytest.mark.parametrize(
    ("number", "size", "how", "shown"),
    [
        (0xDEAD, 8, spec("LowerHex", ALTERNATE | ZERO, 10), "0x0000dead"),
        (0xDEAD, 8, spec("UpperHex", ZERO, 8), "0000DEAD"),
        (-1, 4, spec("LowerHex"), "ffffffff"),
        (-1, 4, spec("Display", ZERO, 5), "-0001"),
        (1, 8, spec("Display", PLUS), "+1"),
        (1, 8, spec("Display", 0, 5), "    1"),
        (1, 8, spec("Binary", ALTERNATE | ZERO, 6), "0b0001"),
        (10, 1, spec("Debug", ZERO | 1 << 25, 2), "0a"),
    ],
)
def test_integers(number: int, size: int, how: Spec, shown: str) -> None:
    assert integer(number, size, how) == shown


@pytest.mark.parametrize(
    ("value", "size", "how", "shown"),
    [
        (1.0, 8, spec("Display"), "1"),
        (1.0, 8, spec("Debug"), "1.0"),
        (1e300, 8, spec("Debug"), "1e300"),
        (-2.5e-7, 8, spec("Debug"), "-2.5e-7"),
        (0.10000000149011612, 4, spec("Display"), "0.1"),
        (-1 / 3, 8, spec("Display", ZERO, 8, 2), "-0000.33"),
        (float("inf"), 8, spec("Display", ZERO, 5), "00inf"),
        (float("nan"), 8, spec("Debug", PLUS), "NaN"),
        (-0.0, 8, spec("Debug"), "-0.0"),
    ],
)
def test_reals(value: float, size: int, how: Spec, shown: str) -> None:
    assert real(value, size, how) == shown


def test_the_others() -> None:
    assert address(0x1000, spec("Pointer")) == "0x1000"
    assert address(0x2000, spec("Pointer", ALTERNATE)) == "0x0000000000002000"
    assert character("'", spec("Debug")) == "'\\''"
    assert character("b", spec("Display", 0, 3)) == "b  "
    assert boolean(True, Spec.of(1 << 29 | ord("*"), 6)) == "**true"
