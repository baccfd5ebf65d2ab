"""What a tool takes and what it answers, as types: the JSON Schema, and the check of what came."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json

Kind = Literal["string", "integer", "number", "boolean", "array"]
Given = Mapping[str, Json]
_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}
_SAID = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list of texts",
}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a tool. Without a `default` it may be left out and is None, unless it is
    `required`; `choices` are all that it may be, `most` the highest number."""

    name: str
    about: str = ""
    kind: Kind = "string"
    default: Json = None
    required: bool = False
    choices: tuple[str, ...] = ()
    least: float = 0
    most: float | None = None

    def schema(self) -> dict[str, Json]:
        """Its JSON Schema, as short as it can be."""
        found: dict[str, Json] = {"type": self.kind}
        if self.kind == "array":
            found["items"] = {"type": "string"}
        if self.choices:
            found = {"enum": list(self.choices)}
        if self.about:
            found["description"] = self.about
        if self.default:
            found["default"] = self.default
        return found

    def read(self, tool: str, value: Json) -> Json:
        """`value`, checked. Raises `InputError`."""
        if not _is(self.kind, value):
            raise InputError(
                f"{tool}: {self.name} is {_shown(value)}, and should be {_SAID[self.kind]}",
                fix=self.about,
            )
        if self.choices and value not in self.choices:
            near = difflib.get_close_matches(str(value), self.choices, 1)
            raise InputError(
                f"{tool}: {self.name} cannot be {_shown(value)}",
                f"it is one of: {', '.join(self.choices)}",
                f"did you mean {near[0]}?" if near else "",
            )
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._bounds(tool, value)
        return value

    def _bounds(self, tool: str, value: float) -> None:
        if value < self.least or (self.most is not None and value > self.most):
            end = "" if self.most is None else f" and at most {self.most:g}"
            raise InputError(f"{tool}: {self.name} is {value}: at least {self.least:g}{end}")


def _is(kind: Kind, value: Json) -> bool:
    if kind == "array":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str if kind == "string" else bool)


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def input_schema(arguments: tuple[Argument, ...]) -> dict[str, Any]:
    """The JSON Schema of a tool's arguments."""
    found: dict[str, Any] = {
        "type": "object",
        "properties": {one.name: one.schema() for one in arguments},
    }
    needed = [one.name for one in arguments if one.required]
    return {**found, "required": needed} if needed else found


def read_arguments(tool: str, arguments: tuple[Argument, ...], given: Given) -> dict[str, Json]:
    """Every argument by its name, defaults filled in. null counts as left out. Raises `InputError`
    for one that there is not, that is missing, or that is of another type."""
    known = {one.name: one for one in arguments}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise InputError(
                f"{tool} has no argument {name!r}",
                f"it takes: {', '.join(known) or 'none'}",
                f"did you mean {near[0]}?" if near else "",
            )
    found: dict[str, Json] = {}
    for one in arguments:
        value = given.get(one.name)
        if value is None and one.required:
            raise InputError(f"{tool} needs {one.name}", fix=one.about)
        found[one.name] = one.default if value is None else one.read(tool, value)
    return found


def answer_schema(kind: type) -> dict[str, Any]:
    """The JSON Schema of an answer, a dataclass. What has a default is left out where that is it:
    only what has none may be null."""
    hints = get_type_hints(kind)
    needed = [part.name for part in fields(kind) if _needed(part)]
    shown = {part.name: _schema(hints[part.name], part.name in needed) for part in fields(kind)}
    found = {"type": "object", "properties": shown}
    return {**found, "required": needed} if needed else found


def _needed(part: Field[Any]) -> bool:
    return part.default is MISSING and part.default_factory is MISSING


def _schema(hint: Any, needed: bool = True) -> dict[str, Any]:
    origin = get_origin(hint)
    if origin is UnionType:
        (inner,) = [one for one in get_args(hint) if one is not NoneType]
        found = _schema(inner)
        return {**found, "type": [found["type"], "null"]} if needed else found
    if origin is tuple:
        return {"type": "array", "items": _schema(get_args(hint)[0])}
    if is_dataclass(hint):
        return answer_schema(hint)  # type: ignore[arg-type]
    return {"type": _SCALARS.get(hint, "object")}


def to_json(value: object) -> Json:
    """An answer as JSON."""
    if is_dataclass(value):
        given = {part.name: (part, getattr(value, part.name)) for part in fields(value)}
        return {
            name: to_json(inner)
            for name, (part, inner) in given.items()
            if _needed(part) or inner != part.default
        }
    if isinstance(value, tuple | list):
        return [to_json(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    return value  # type: ignore[return-value]
