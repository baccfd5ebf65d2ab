"""A bare core of a CPU that has shut down does not say so: the registers and the tables do."""

from __future__ import annotations

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.stop import Stop, StopReason
from tests.said import evidence
from tests.writers.machine import IST, TEXT, Machine
from tests.writers.tables import ADDRESS

NOWHERE = 0x5000_0000
LAST_PUSH = IST + 0x2000 - 8


def without_stacks(code: str = "8a00") -> Machine:
    m = Machine()
    for top in (IST + 0x2000, IST + 0x4000):
        m.unmap(top - 8)
    m.code(TEXT, code)
    return m


def told(stop: Stop, kind: str = "core") -> dict[str, Finding]:
    seen = examine(stop._replace(reason=StopReason(kind)))
    return {
        f.code.name: f
        for f in seen.findings
        if f.code.name.startswith(("triple", "double", "page-fault", "reboot"))
    }


@pytest.mark.parametrize("kind", ["core", "attached"])
def test_the_last_push_is_in_cr2(kind: str) -> None:
    found = told(without_stacks().shutdown(TEXT, cr2=LAST_PUSH, rax=NOWHERE), kind)
    assert set(found) == {"triple-fault", "page-fault.unmapped"}
    triple = found["triple-fault"]
    assert (triple.cause, triple.confidence) == ("ist.unmapped", "likely")
    assert "seen in its registers only" in str(evidence(triple)["explanation"])


def test_without_the_code_the_first_fault_is_not_invented() -> None:
    m = without_stacks()
    del m.tables.frames[m.entry(m.leaf(TEXT, m.master)) & ADDRESS]
    found = told(m.shutdown(TEXT, cr2=LAST_PUSH, rflags=0x202))
    assert set(found) == {"triple-fault"}
    assert (found["triple-fault"].cause, found["triple-fault"].confidence) == (
        "ist.unmapped", "likely",
    )  # fmt: skip


def test_another_cr2_is_another_story() -> None:
    """It may be about to fault so, or never: nothing says that it has."""
    assert told(without_stacks().shutdown(TEXT, cr2=NOWHERE, rax=NOWHERE)) == {}


def test_a_cpu_whose_faults_are_delivered_has_not_shut_down() -> None:
    m = Machine()
    m.code(TEXT, "8a00")
    assert told(m.shutdown(TEXT, cr2=LAST_PUSH, rax=NOWHERE)) == {}


def test_no_gate_and_an_instruction_that_raises() -> None:
    m = Machine()
    for vector in (8, 14):
        m.gate(vector, present=False)
    m.code(TEXT, "8a00")
    found = told(m.shutdown(TEXT, cr2=NOWHERE, rax=NOWHERE))
    assert found["triple-fault"].cause == "page-fault.unmapped"
    m.code(TEXT, "90")
    assert told(m.shutdown(TEXT, cr2=NOWHERE, rax=NOWHERE)) == {}
