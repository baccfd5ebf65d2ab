"""No code of the contract without a scenario of the lab guest (or a case of the small guest) that
must report it, and none without a mutation that brings it about."""

from __future__ import annotations

import pytest

from breenix_gdbagent.lab import ARCHITECTURES, scenarios
from tests.guest import smallguest, test_audit_mutations, test_interrupts, test_leaks
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu
from tests.unit.checks import test_fault_mutations, test_mutations, test_table_mutations
from tests.unit.debugger import test_interrupt_check
from tests.unit.report.contract_codes import CONTRACT

INFO = {"page-fault.handled": "page-fault-user"}
"""Of severity info, so that no scenario's list has it: seen in this one."""

OF_AARCH64 = {"eret.frame", "sp.misaligned"}
"""Brought about in `tests/unit/aarch64/test_taken.py`."""


def of_scenarios() -> set[str]:
    tables = [scenarios(arch) for arch in ARCHITECTURES]
    found = {code for t in tables for s in t.values() for code in (*s.codes, *s.strict)}
    with_options = {*test_leaks.CODES, *test_interrupts.CODES}
    return found | with_options | set(INFO) | set(smallguest.CODES)


def of_mutations() -> set[str]:
    registers = (
        test_mutations, test_table_mutations, test_audit_mutations, test_fault_mutations
    )  # fmt: skip
    found = {code for one in registers for m in one.MUTATIONS for code in m.codes}
    found |= set(test_audit_mutations.LEAKS) | set(test_interrupt_check.CODES)
    return found | OF_AARCH64


def test_every_code_has_a_scenario() -> None:
    assert set(CONTRACT) - of_scenarios() == set()


def test_every_code_has_a_mutation() -> None:
    assert set(CONTRACT) - of_mutations() == set()


def test_nothing_else_is_declared() -> None:
    assert of_scenarios() | of_mutations() <= set(CONTRACT)


@needs_qemu
@pytest.mark.parametrize(("code", "scenario"), INFO.items())
def test_a_code_of_severity_info(code: str, scenario: str) -> None:
    assert code in agent("ci", "--lab", scenario, "--json").codes("info")
