"""A new code is declared in one file, this one, and reaches every output by what it declares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated
from xml.etree import ElementTree

import pytest

from breenix_gdbagent.addresses import Hex, VirtAddr
from breenix_gdbagent.checks import examine as checks
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, Facts, Place
from breenix_gdbagent.checks.finding import CODES, Finding, Where, declare
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report import github, html, junit, markdown, text
from breenix_gdbagent.report.document import History, RunRecord
from breenix_gdbagent.report.fields import from_json
from breenix_gdbagent.report.model import Report, ShownFinding
from breenix_gdbagent.run_report import build, leading_fault
from tests.schema import validate
from tests.unit.report import documents
from tests.writers.machine import TEXT, Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCheckFacts(Facts):
    error_code: Hex
    cpu: int
    return_address: Place
    deviation: Annotated[str, IF_KNOWN] = ""
    unshown: Annotated[int, ASIDE] = 7


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Iterator[Report]:
    code = declare(
        "machine-check",
        "error",
        "the machine checked itself and failed",
        arises="Bad memory.",
        confirm="Read the banks.",
        mend="Change the memory.",
        kind="event",
    )

    def check(kernel: Kernel) -> Iterator[Finding]:
        at = Place(TEXT, "kernel::run")
        facts = MachineCheckFacts(error_code=Hex(0xBE00), cpu=4, return_address=at)
        yield Finding(code, "bank 4", facts, Where(kernel.stop.cpu.root, VirtAddr(TEXT)))

    monkeypatch.setattr(checks, "CHECKS", (*checks.CHECKS, ("machine-checks", check)))
    try:
        kernel = Kernel(Machine().fault(3, TEXT, ring=0))
        examined = checks.examine(kernel.stop, kernel)
        assert leading_fault(examined.findings, History()) is not None
        yield build({"kind": "snapshot"}, RunRecord(), examined)
    finally:
        del CODES["machine-check"]


def test_it_reaches_the_json_document(report: Report) -> None:
    told = json.loads(json.dumps(report.to_json()))
    validate(told)
    (found,) = [f for f in told["findings"] if f["code"] == "machine-check"]
    evidence = dict(found["evidence"])
    walk = evidence.pop("walk")
    at = f"{TEXT:#x} <kernel::run>"
    assert evidence == {"error_code": "0xbe00", "cpu": 4, "return_address": at}
    assert walk["va"] == hex(TEXT)
    assert (found["kind"], found["check"]) == ("event", "machine-checks")
    assert "the machine checked itself" in found["summary"]


def test_it_reaches_every_other_output(report: Report) -> None:
    title = "the machine checked itself and failed"
    for shown in (
        text.render(report),
        markdown.render(report),
        html.render(report),
        github.annotate(report),
    ):
        assert "machine-check" in shown and title in shown
    case = next(
        case
        for case in ElementTree.fromstring(junit.render(report)).iter(
            "testcase"
        )
        if case.get("name") == "machine-checks"
    )
    failure = case.find("failure")
    assert failure is not None and failure.get("type") == "machine-check"
    assert title in str(failure.text)


def test_it_is_told_before_what_was_found_only(report: Report) -> None:
    state = from_json(ShownFinding, documents.finding("cr3.unknown"))
    shown = text.render(replace(report, findings=(state, *report.findings)))
    assert shown.index("ERROR machine-check") < shown.index("ERROR cr3.unknown")
