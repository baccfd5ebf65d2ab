"""SARIF and JUnit against the schemas of those who read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import xmlschema

from breenix_gdbagent.report import github, junit, sarif
from breenix_gdbagent.report.places import place
from tests.unit.report import documents

SCHEMAS = Path(__file__).parents[2] / "schemas"
MADE = [documents.faulted, documents.clean, documents.hostile]


def log_of(document: documents.Document) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sarif.render(documents.report(document)))
    schema = json.loads((SCHEMAS / "sarif-2.1.0.json").read_text())
    jsonschema.Draft4Validator(schema).validate(found)
    return found


@pytest.mark.parametrize("made", MADE)
def test_the_log_is_sarif(made: Any) -> None:
    document = made()
    (run,) = log_of(document)["runs"]
    assert [r["ruleId"] for r in run["results"]] == [
        f.code for f in sarif.ordered(documents.report(document))
    ]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert len(result["locations"]) == 1


def test_the_schema_refuses_what_is_none() -> None:
    found = log_of(documents.faulted())
    found["runs"][0]["results"][0]["level"] = "fatal"
    schema = json.loads((SCHEMAS / "sarif-2.1.0.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(schema).validate(found)


def test_levels_places_and_what_follows() -> None:
    document = documents.faulted()
    report = documents.report(document)
    results = log_of(document)["runs"][0]["results"]
    for finding, result in zip(sarif.ordered(report), results, strict=True):
        assert (
            result["level"]
            == {"error": "error", "warning": "warning", "info": "note"}[finding.severity]
        )
        assert finding.summary in result["message"]["text"]
        assert list(result["partialFingerprints"].values()) == [finding.fingerprint]
        physical = result["locations"][0]["physicalLocation"]
        found = place(report, finding)
        if found is None:
            assert "region" not in physical
        else:
            assert physical["artifactLocation"]["uri"] == found[0]
            assert physical["region"] == {"startLine": found[1]}
        for base in finding.because:
            if any(f.fingerprint == base for f in report.findings):
                assert "Follows from " in result["message"]["text"]


def test_what_was_not_checked_is_a_notification_with_its_reason() -> None:
    report = documents.report(documents.faulted())
    notes = log_of(documents.faulted())["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    told = [note["message"]["text"] for note in notes]
    assert told == [
        f"not checked: {', '.join(names)}: {reason}"
        for reason, names in sarif.lacking(report).items()
    ]


def test_a_finding_of_the_baseline_is_suppressed() -> None:
    document = documents.faulted()
    document["findings"][0]["evidence"]["baseline"] = True
    code = document["findings"][0]["code"]
    results = log_of(document)["runs"][0]["results"]
    assert {r["ruleId"] for r in results if "suppressions" in r} == {code}


@pytest.mark.parametrize("made", MADE)
def test_junit_is_what_jenkins_reads(made: Any) -> None:
    schema = xmlschema.XMLSchema(SCHEMAS / "junit-jenkins.xsd")
    said = junit.render(documents.report(made()), "2026-01-31T23:59:59", "host")
    assert [str(e) for e in schema.iter_errors(ElementTree.fromstring(said))] == []


def test_annotations_stand_where_the_results_do() -> None:
    report = documents.report(documents.faulted())
    for finding in report.findings:
        found = place(report, finding)
        if found is not None and finding.severity == "error":
            assert f"file={found[0]},line={found[1]}" in github.annotate(report)
