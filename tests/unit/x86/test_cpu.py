"""What is read off the registers of one CPU."""

from __future__ import annotations

import pytest

from breenix_gdbagent.x86.cpu import Cpu

AT_RESET = {"cr0": 0x6000_0010, "cs": 0xF000, "rip": 0xFFF0, "efer": 0}


def test_a_cpu_before_its_first_instruction() -> None:
    """The values of SDM volume 3, table 10-1."""
    assert Cpu(0, {**AT_RESET, "cr2": 0, "rdx": 0x600}).at_reset


@pytest.mark.parametrize(
    "change", [{"rip": 0xFFF1}, {"cs": 8}, {"cr0": 0x11}, {"cr0": 0x10}, {"efer": 0x500}]
)
def test_one_that_has_run(change: dict[str, int]) -> None:
    assert not Cpu(0, {**AT_RESET, **change}).at_reset


@pytest.mark.parametrize("name", list(AT_RESET))
def test_what_is_not_known_is_no_reset(name: str) -> None:
    assert not Cpu(0, {k: v for k, v in AT_RESET.items() if k != name}).at_reset
