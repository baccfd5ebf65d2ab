"""The published schema of the report document, and every place in it that describes something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator


@cache
def schema() -> Any:
    """schema.json as it comes with the package."""
    text = (files("breenix_gdbagent.report") / "schema.json").read_text(encoding="utf-8")
    return json.loads(text)


def validate(document: Any) -> None:
    """Raises `jsonschema.ValidationError` for a document that the schema does not describe."""
    Draft202012Validator(schema()).validate(document)


def objects(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, schema) of every object that names its properties."""
    if isinstance(part, dict):
        conditional = path.endswith(("/if", "/then"))
        if "properties" in part and isinstance(part["properties"], dict) and not conditional:
            yield path, part
        for key, inner in part.items():
            yield from objects(inner, f"{path}/{key}")
    elif isinstance(part, list):
        for number, inner in enumerate(part):
            yield from objects(inner, f"{path}/{number}")
