"""Evidence as the report document has it, derived from the types of a finding's facts.

See `checks/facts.py` for what a column's type and markers mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from breenix_gdbagent.addresses import Hex, PhysAddr, VirtAddr, hex64
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, SHORT, SPREAD, Column, Facts
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.report.fields import to_json
from breenix_gdbagent.report.shown_walk import shown_walk
from breenix_gdbagent.report.wording.base import PHRASES

_HEXES = (VirtAddr, PhysAddr, Hex)
_PLAIN = (bool, int, float, str)
_Show = Callable[[Any], Json]
_Column = tuple[str, _Show, frozenset[Column]]
_KNOWN: dict[type[Facts], tuple[_Column, ...]] = {}


def evidence_of(facts: Facts) -> dict[str, Json]:
    """The columns of some facts, in the order of their declaration."""
    shown: dict[str, Json] = {}
    for field, show, markers in columns(type(facts)):
        name, value = field.rstrip("_"), getattr(facts, field)
        if SPREAD in markers:
            shown |= {} if value is None else evidence_of(value)
        elif IF_KNOWN not in markers or value not in (None, "", ()):
            shown[name] = None if value is None else show(value)
    return shown


def columns(kind: type[Facts]) -> tuple[_Column, ...]:
    """The fields that are shown: name, how its values are shown, its markers. Raises `TypeError`
    for a type that no output knows."""
    if kind not in _KNOWN:
        _KNOWN[kind] = tuple(_read(kind))
    return _KNOWN[kind]


def _read(kind: type[Facts]) -> Iterator[_Column]:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, markers = hints[field.name], frozenset[Column]()
        if get_origin(hint) is Annotated:
            hint, *told = get_args(hint)
            markers = frozenset(told)
        if ASIDE not in markers:
            short = SHORT in markers
            show = evidence_of if SPREAD in markers else _shown_as(hint, short)
            yield field.name, show, markers


def _shown_as(hint: Any, short: bool) -> _Show:
    """How a value of that type is shown. Raises `TypeError` for a type that no output knows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (hint,) = [a for a in arguments if a is not NoneType]
        return _shown_as(hint, short)
    if origin is tuple:
        return _list_of(_shown_as(arguments[0], short))
    if hint in PHRASES:
        return PHRASES[hint]
    if hint in _HEXES:
        return hex64
    if hint in _PLAIN or origin is Literal:
        return _as_it_is
    if hint is Space:
        return _label if short else space_row
    if hint is Walk:
        return _walk
    if isinstance(hint, type) and issubclass(hint, Facts):
        return evidence_of
    raise TypeError(f"{hint} is no type of a column")


def _list_of(show: _Show) -> _Show:
    return lambda values: [None if v is None else show(v) for v in values]


def _as_it_is(value: Json) -> Json:
    return value


def _walk(walk: Walk) -> Json:
    return to_json(shown_walk(walk))


def _label(space: Space) -> Json:
    return space.label


def space_row(space: Space) -> dict[str, Json]:
    """An address space as evidence has it."""
    return {
        "root": hex64(space.root),
        "role": space.role,
        "pid": space.pid,
        "name": space.name,
    }
