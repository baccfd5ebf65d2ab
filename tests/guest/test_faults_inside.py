"""Faults found long after: nobody caught them, and the guest stands in a handler for ever."""

from __future__ import annotations

import pytest

from breenix_gdbagent.checks.faults import check
from breenix_gdbagent.kernel.image import attach_image
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.lab import scenarios
from tests.guest.live_support import DONE, ELF, lab, needs_qemu

pytestmark = needs_qemu

HALTED = (
    "page-fault-unmapped", "guard-page", "reserved-bit", "non-canonical", "invalid-opcode",
    "divide-error", "double-fault", "rsp0-invalid",
)  # fmt: skip
BY_IST_ALONE = ("page-fault-unmapped", "guard-page", "reserved-bit", "rsp0-invalid")


def codes_of(name: str, *, elf: bool) -> set[str]:
    with lab(name) as vm:
        stop = vm.run_until([DONE], 0.7)
        assert stop.reason.kind == "deadline"
        if elf:
            stop = attach_image(stop, ELF)
        return {f.code.name for f in check(Kernel(stop))}


@pytest.mark.parametrize("name", HALTED)
def test_the_codes_are_those_of_the_first_moment(name: str) -> None:
    assert codes_of(name, elf=True) == set(scenarios()[name].codes) - {"panic"}


@pytest.mark.parametrize("name", BY_IST_ALONE)
def test_without_any_elf_the_stacks_of_the_ist_tell(name: str) -> None:
    assert codes_of(name, elf=False) == set(scenarios()[name].codes)
