"""Values of the report document as JSON and back: field by field, in their order.

A class whose JSON is not its fields has ``fields_json``, and ``of_fields``, which reads that back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from breenix_gdbagent.jsonvalue import Json

T = TypeVar("T")
OMITTED = {"omitted": True}
"""Of a field that the document has only where it is not what it is by default."""


def to_json(value: object) -> Json:
    """A dataclass, or what one holds, as JSON."""
    if is_dataclass(value):
        if hasattr(value, "fields_json"):
            return cast(Json, value.fields_json())
        shown = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: to_json(v) for f, v in shown if not f.metadata or v != f.default}
    if isinstance(value, tuple):
        return [to_json(inner) for inner in value]
    return cast(Json, value)


def from_json(kind: type[T], value: Json) -> T:
    """What `to_json` was given. Raises `KeyError` for a field that is not there and has to be,
    `TypeError` for another shape."""
    return cast(T, _read(kind, value))


def _read(kind: Any, value: Json) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        (kind,) = [a for a in get_args(kind) if a is not NoneType]
        return None if value is None else _read(kind, value)
    if origin is tuple:
        inner = get_args(kind)[0]
        return tuple(_read(inner, one) for one in cast(Sequence[Json], value))
    if hasattr(kind, "of_fields"):
        return kind.of_fields(value)
    return _of_fields(kind, cast(Mapping[str, Json], value)) if is_dataclass(kind) else value


def _of_fields(kind: Any, value: Mapping[str, Json]) -> Any:
    hints = _hints(kind)
    found = {}
    for part in fields(kind):
        needed = part.default is MISSING and part.default_factory is MISSING
        if needed or part.name in value:
            found[part.name] = _read(hints[part.name], value[part.name])
    return kind(**found)


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind)
    return _HINTS[kind]
