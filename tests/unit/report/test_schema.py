"""The published schema accepts what we write and refuses what breaks the contract."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from tests.unit.report import documents


def validator() -> Draft202012Validator:
    text = (files("breenix_gdbagent.report") / "schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("make", [documents.clean, documents.faulted, documents.hostile])
def test_accepts_documents(make: Any) -> None:
    validator().validate(make())


def _extra_key(d: Any) -> None:
    d["findings"][0]["colour"] = "red"


def _number_for_address(d: Any) -> None:
    d["findings"][1]["where"]["va"] = 4096


def _upper_case(d: Any) -> None:
    d["spaces"][0]["root"] = "0x14A000"


def _silent_not_checked(d: Any) -> None:
    d["checks"][2]["reason"] = None


def _unknown_severity(d: Any) -> None:
    d["findings"][0]["severity"] = "fatal"


def _no_fingerprint(d: Any) -> None:
    del d["findings"][0]["fingerprint"]


def _other_schema(d: Any) -> None:
    d["schema"] = 2


def _text_for_level(d: Any) -> None:
    d["findings"][1]["where"]["level"] = "3"


def _exit_unknown(d: Any) -> None:
    d["run"]["exit"] = 5


@pytest.mark.parametrize(
    "spoil",
    [
        _extra_key, _number_for_address, _upper_case, _silent_not_checked, _unknown_severity,
        _no_fingerprint, _other_schema, _text_for_level, _exit_unknown,
    ],
)  # fmt: skip
def test_refuses(spoil: Any) -> None:
    document = documents.faulted()
    spoil(document)
    with pytest.raises(ValidationError):
        validator().validate(document)


def test_evidence_and_provenance_are_free() -> None:
    document = documents.faulted()
    document["findings"][0]["evidence"]["whatever"] = [1, {"a": None}]
    document["provenance"]["host"] = "anything"
    validator().validate(document)
