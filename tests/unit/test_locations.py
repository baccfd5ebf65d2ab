"""Numbers as users write them."""

from __future__ import annotations

import pytest

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.locations import parse_address, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x10", 16),
        ("0xFFFF_c900_0000_0000", 0xFFFF_C900_0000_0000),
        ("10", 10),
        ("1_000", 1000),
        (" 7 ", 7),
        ("0", 0),
        ("0xffffffffffffffff", 2**64 - 1),
    ],
)
def test_numbers(text: str, value: int) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "0x", "x10", "ff", "0x_1", "1__0", "-1", "0b1", "1e3"])
def test_what_is_no_number(text: str) -> None:
    assert parse_number(text) is None


def test_too_large() -> None:
    with pytest.raises(InputError, match="64 bits"):
        parse_number("0x1_0000_0000_0000_0000")


@pytest.mark.parametrize("text", ["", "+", "0xzz", "12ab", "a+b+c", "name+0xzz"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError):
        parse_address(text, None)


def test_a_symbol_needs_an_elf() -> None:
    with pytest.raises(InputError, match="no symbol is known"):
        parse_address("kernel_main", None)
