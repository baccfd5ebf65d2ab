"""The published schema accepts what we write and refuses what breaks the contract."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest
from jsonschema import ValidationError

from breenix_gdbagent import checks
from breenix_gdbagent.checks.facts import ASIDE, SPREAD, Facts
from tests.schema import objects, schema, validate
from tests.unit.report import documents


@pytest.mark.parametrize("make", [documents.clean, documents.faulted, documents.hostile])
def test_accepts_documents(make: Any) -> None:
    validate(make())


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
        validate(document)


def _extra_evidence(d: Any) -> None:
    d["findings"][0]["evidence"]["whatever"] = 1


def _extra_in_a_walk(d: Any) -> None:
    walk = {
        "va": "0x0", "root": "0x1000", "pa": None, "size": None, "levels": [], "effective": None,
        "stopped_at": 4, "reason": "not-present",
    }  # fmt: skip
    d["findings"][0]["evidence"]["walk"] = walk
    validate(d)
    walk["colour"] = "red"


def _extra_provenance(d: Any) -> None:
    d["provenance"]["host"] = "anything"


@pytest.mark.parametrize("spoil", [_extra_evidence, _extra_in_a_walk, _extra_provenance])
def test_nothing_is_free_in_form(spoil: Any) -> None:
    document = documents.faulted()
    spoil(document)
    with pytest.raises(ValidationError):
        validate(document)


def test_every_property_is_described_and_every_object_closed() -> None:
    found = list(objects(schema()))
    assert len(found) > 25
    for path, part in found:
        assert part.get("additionalProperties") is False, f"{path} takes anything"
        for name, property_ in part["properties"].items():
            assert len(property_.get("description", "")) > 5, f"{path}: {name} is not described"


def test_no_definition_is_left_over() -> None:
    text = json.dumps(schema())
    for name in schema()["$defs"]:
        assert f'"#/$defs/{name}"' in text, f"nothing is a {name}"


def test_every_column_of_every_familys_facts_is_described() -> None:
    """Of families that no scenario reaches too."""
    for module in pkgutil.walk_packages(checks.__path__, checks.__name__ + "."):
        importlib.import_module(module.name)
    known = {name for _, part in objects(schema()) for name in part["properties"]}
    kinds = list(_below(Facts))
    assert len(kinds) > 30
    for kind in kinds:
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            markers = get_args(hints[field.name])[1:]
            if SPREAD not in markers and ASIDE not in markers:
                assert field.name.rstrip("_") in known, f"{kind.__name__}.{field.name}"


def _below(kind: type[Facts]) -> Iterator[type[Facts]]:
    for inner in kind.__subclasses__():
        if inner.__module__.startswith(checks.__name__):
            yield inner
            yield from _below(inner)
