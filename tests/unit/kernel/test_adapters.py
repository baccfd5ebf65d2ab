"""Adapters: which one a kernel has, and what it says of findings."""

from __future__ import annotations

import re

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.finding import CODES
from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.kernel.adapters import BREENIX, GENERIC
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.advice import code_of
from breenix_gdbagent.report.document import RunRecord
from breenix_gdbagent.run_report import build
from tests.writers.machine import PERCPU, TEXT, Machine

OF_BREENIX = re.compile(r"Breenix|ProcessPageTable|kernel/src|\.rs\b|gs:\[|PML4\[\d|STACK_BITMAP")


def test_each_word_of_breenix_is_about_a_code_that_there_is() -> None:
    assert set(BREENIX.advice) <= set(all_codes())
    assert any(advice.see for advice in BREENIX.advice.values())


@pytest.mark.parametrize("name", sorted(all_codes()))
def test_what_a_code_says_by_itself_holds_for_any_kernel(name: str) -> None:
    code = CODES[name]
    for text in (code.title, code.arises, code.confirm, code.mend):
        assert not OF_BREENIX.search(text), text
    assert code_of(name, "none") == code and code_of(name, "no such kernel") == code


def test_a_kernel_without_an_adapter_is_told_nothing_of_breenix() -> None:
    machine = Machine()
    assert Kernel(machine.fault(3, TEXT, ring=0)).adapter is BREENIX
    machine.write(PERCPU, bytes(0x60))
    kernel = Kernel(machine.fault(3, TEXT, ring=0))
    assert kernel.adapter is GENERIC
    told = build({"kind": "snapshot"}, RunRecord(), examine(kernel.stop, kernel)).to_json()
    assert told["adapter"] == "none"
    assert all(not f["see"] and not OF_BREENIX.search(f["fix"]) for f in told["findings"])
