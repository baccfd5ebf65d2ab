"""A value as Python data (numbers, strings, lists, tuples, dictionaries) and as JSON."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.symbols.tree import (
    Char,
    Cut,
    Fields,
    Guarded,
    Items,
    Limits,
    Node,
    Pairs,
    Pointer,
    Struct,
    Text,
    Unknown,
    Variant,
    nodes,
)
from breenix_gdbagent.symbols.tree_text import line
from breenix_gdbagent.symbols.values import Value

Plain = (
    None | bool | int | float | str | Unknown | Pointer | Cut
    | list["Plain"] | tuple["Plain", ...] | dict["str | int", "Plain"]
)  # fmt: skip


def to_python(value: Value, limits: Limits | None = None) -> Plain:
    """The value as Python data, see `plain_of`."""
    return plain_of(nodes(value, limits))


def plain_of(node: Node) -> Plain:
    """Nodes as Python data.

    Structs and maps are dicts, tuples tuples, sequences lists, `None` None, `Some(x)` x (where x
    is None too ``{"Some": None}``), other variants ``{"Name": payload}`` or the bare name, structs
    of one unnamed field that field, locks ``{"lock": word, "data": ...}``.
    """
    match node:
        case Char(text):
            return text
        case Text(text, cut):
            return [text, Cut(cut)] if cut else text
        case Items(items):
            return [plain_of(item) for item in items]
        case Pairs(pairs, rest):
            found = {_key(key): plain_of(item) for key, item in pairs}
            return found if rest is None else {**found, "...": rest}
        case Struct(name, fields):
            plain = _plain_fields(fields)
            return plain[0] if name and isinstance(plain, tuple) and len(plain) == 1 else plain
        case Variant("None", None):
            return None
        case Variant(name, None):
            return name
        case Variant(name, fields):
            plain = _plain_fields(fields or ())
            inner = plain[0] if isinstance(plain, tuple) and len(plain) == 1 else plain
            return inner if name == "Some" and inner is not None else {name: inner}
        case Guarded():
            return {"lock": node.word, "data": plain_of(node.data)}
        case _:
            return node


def _plain_fields(fields: Fields) -> tuple[Plain, ...] | dict[str | int, Plain]:
    if isinstance(fields, tuple):
        return tuple(plain_of(part) for part in fields)
    return {name: plain_of(part) for name, part in fields.items()}


def _key(key: Node) -> str | int:
    """A map's key as the key of a dict."""
    plain = plain_of(key)
    if isinstance(plain, str | int):
        return plain
    return line(key)


def json_of(plain: Plain) -> Json:
    """Python data (`to_python`) as JSON: addresses in pointers as strings, what could not be
    had as an object that says why."""
    match plain:
        case dict():
            return {str(key): json_of(part) for key, part in plain.items()}
        case list() | tuple():
            return [json_of(part) for part in plain]
        case Unknown(reason, corrupt):
            return {"corrupt" if corrupt else "unreadable": reason}
        case Pointer(address):
            return hex64(address)
        case Cut(more):
            return {"left_out": more}
        case float():
            return plain if abs(plain) < float("inf") else str(plain)
        case _:
            return plain
