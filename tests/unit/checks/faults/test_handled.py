"""Faults that the kernel went on after."""

from __future__ import annotations

import pytest

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.checks.faults import as_handled, is_user_fault
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.spaces import WRONG_PROCESS, LoadedSpace, WrongSpaceFacts
from tests.said import evidence, summary
from tests.unit.checks.faults.stops import found, only
from tests.writers.machine import CODE, TEXT, Machine, stack_top

WHY = "the kernel ended the process"


def user_page_fault() -> Finding:
    m = Machine()
    m.code(CODE, "8a00")
    return only(m.fault(14, CODE, error=4, cr2=0x5000_0000, rax=0x5000_0000))


def test_a_page_fault_becomes_handled_and_keeps_what_it_was() -> None:
    before = user_page_fault()
    after = as_handled(before, WHY)
    assert (after.code.name, after.effective_severity) == ("page-fault.handled", "info")
    assert (evidence(after)["was"], evidence(after)["handled"]) == ("page-fault.unmapped", WHY)
    assert summary(after).endswith(WHY) and after.subject == before.subject == "init"
    assert after.where == before.where and as_handled(after, "again") == after


@pytest.mark.parametrize(
    ("code", "vector", "name"),
    [
        ("f4", 13, "general-protection"),
        ("0f0b", 6, "invalid-opcode"),
        ("8a00", 13, "page-fault.non-canonical"),
    ],
)
def test_other_exceptions_keep_their_code_as_info(code: str, vector: int, name: str) -> None:
    m = Machine()
    m.code(CODE, code)
    after = as_handled(only(m.fault(vector, CODE, error=0, rax=1 << 63)), WHY)
    assert (after.code.name, after.effective_severity) == (name, "info")
    assert WHY in summary(after)


def test_a_fault_of_the_kernel_stays_an_error() -> None:
    m = Machine()
    m.code(TEXT, "8a00")
    finding = only(m.fault(14, TEXT, ring=0, error=0, cr2=0x5000_0000, rax=0x5000_0000))
    assert not is_user_fault(finding) and as_handled(finding, WHY) is finding


def test_a_lost_kernel_stack_stays_an_error_whatever_ring_it_met() -> None:
    m = Machine()
    m.set_entry(m.root + 402 * 8, 0)
    m.code(CODE, "cd80")
    event, defect = found(m.fault(14, CODE, error=2, cr2=stack_top(1) - 8))
    assert evidence(event)["ring"] == 3
    assert as_handled(event, WHY) is event and as_handled(defect, WHY) is defect


def test_ring_3_at_a_kernel_address_keeps_the_hint() -> None:
    m = Machine()
    finding = only(m.fault(14, TEXT + 0x20, error=0x15, cr2=TEXT + 0x20))
    after = as_handled(finding, WHY)
    assert after.effective_severity == "info" and "ring_mismatch" in evidence(after)


def test_what_another_check_found_in_ring_3_is_no_fault_of_the_program() -> None:
    """CR3 of another process stays an error, whatever the kernel did about the fault there."""
    at = LoadedSpace(
        cpu=0, cr3=PhysAddr(0x1000), role="process", process="init", pid=1, kernel_cr3=None,
        saved_process_cr3=None, rip=VirtAddr(0x4000_0000), symbol=None, ring=3, thread="init",
    )  # fmt: skip
    found = Finding(WRONG_PROCESS, "init", WrongSpaceFacts(at=at, owner=None, space="init (pid 1)"))
    assert as_handled(found, WHY) is found
