"""`--check-interrupts`: what an interrupted thread gets back, and the instruction that changed it.

The guest decides when its timer comes, so that numbers are held against each other and not against
what a run should have.
"""

from __future__ import annotations

import json

import pytest

from breenix_gdbagent import lab
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu

CODES = ("context.registers-changed",)


@needs_qemu
def test_registers_that_the_timer_changes() -> None:
    result = agent("ci", "--lab", "registers-changed", "--json", "--check-interrupts")
    assert result.code == 1 and result.codes("error", "warning") == set(CODES)
    found = [f for f in result.document["findings"] if f["code"] in CODES]
    by_ring = {f["evidence"]["ring"]: f["evidence"] for f in found}
    assert 3 in by_ring
    for ring, evidence in by_ring.items():
        assert evidence["returned_by"].startswith("careless_return+")
        entered = {one["handler"]: one["vectors"] for one in evidence["entered"]}
        assert entered["kernel::scenarios::registers::careless_timer_entry"] == [32]
        (register,) = evidence["registers"]
        assert register["register"] == "r9"
        assert evidence["changed"] == evidence["returns"] == register["times"] > 0, ring
        assert int(register["after"], 16) == int(register["before"], 16) + 1
        (loader,) = evidence["loaded_by"]
        assert loader["code"] == "inc r9" and loader["at"].startswith("careless_return+")
    run = result.document["run"]["interrupts"]
    assert run["changed"] == sum(e["changed"] for e in by_ring.values()) <= run["returns"]


@needs_qemu
def test_without_it_the_same_kernel_passes_and_with_it_a_sound_one() -> None:
    assert agent("ci", "--lab", "registers-changed", "--json").code == 0
    result = agent("ci", "--lab", "clean", "--json", "--check-interrupts")
    assert result.code == 0 and not result.codes("error")
    checks = {c["name"]: c["status"] for c in result.document["checks"]}
    assert checks["interrupts"] == "passed"
    run = result.document["run"]["interrupts"]
    assert run["changed"] == 0 < run["returns"] <= run["entries"]


@needs_qemu
def test_where_it_cannot_look_it_says_so() -> None:
    result = agent("ci", "--lab", "--deterministic", "--check-interrupts")
    assert result.code == 2 and "record" in result.err


@pytest.mark.parametrize("stripped", [False, True])
def test_lint_reads_the_lab_guest(stripped: bool) -> None:
    """The one scenario that loses a register, and nothing else, with and without DWARF."""
    result = agent("lint", "--kernel", str(lab.elf(stripped)), "--json")
    assert result.code == 1
    (one,) = json.loads(result.out)
    assert one["symbol"] == "careless_return" and one["registers"] == ["r9"]
    assert one["entries"] == ["kernel::scenarios::registers::careless_timer_entry"]
