"""What a run is allowed and required to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent.commands.expectations import (
    judge,
    parse_expectation,
    read_baseline,
    write_baseline,
)
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.report.model import Report
from tests.unit.report import documents


def finding(code: str, subject: str = "kernel", severity: str = "error", **evidence: Any) -> Any:
    print_ = f"{code}@{subject}"
    return documents.finding(code, severity=severity, evidence=evidence, fingerprint=print_)


def document(*findings: Any) -> Report:
    return documents.report({**documents.clean(), "findings": list(findings)})


def test_an_expected_finding_no_longer_counts() -> None:
    judged = judge(document(finding("panic")), [parse_expectation("panic")], ())
    assert [f.severity for f in judged.counted] == ["info"]
    assert judged.missing == ()


def test_an_expected_finding_that_did_not_come_is_named() -> None:
    judged = judge(document(finding("panic")), [parse_expectation("hang")], ())
    assert judged.missing == ("hang",)
    assert [f.severity for f in judged.counted] == ["error"]


@pytest.mark.parametrize("process", ["init", "2"])
def test_by_process_name_or_pid(process: str) -> None:
    shown = finding("page-fault.unmapped", process={"name": "init", "pid": 2})
    expected = [parse_expectation(f"page-fault.unmapped@{process}")]
    assert judge(document(shown), expected, ()).missing == ()
    other = [parse_expectation("page-fault.unmapped@other")]
    assert judge(document(shown), other, ()).missing == ("page-fault.unmapped@other",)


def test_a_survived_fault_is_found_by_what_it_was() -> None:
    survived = finding("page-fault.handled", severity="info", was="page-fault.unmapped")
    expected = [parse_expectation("page-fault.unmapped")]
    assert judge(document(survived), expected, ()).missing == ()


def test_the_known_are_left_out_and_the_gone_are_named() -> None:
    judged = judge(document(finding("panic"), finding("hang")), [], ("panic@kernel", "old@x"))
    assert [f.code for f in judged.counted] == ["hang"]
    assert judged.gone == ("old@x",)


def test_a_code_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="no such finding code"):
        parse_expectation("page-fault.unmaped")


def test_a_baseline_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    write_baseline(file, document(finding("panic"), finding("x", severity="info")))
    assert read_baseline(file) == ("panic@kernel",)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 99, "fingerprints": []}', "\xff"])
def test_what_is_no_baseline(text: str, tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(InputError):
        read_baseline(file)


def test_a_missing_baseline(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_baseline(tmp_path / "none")
