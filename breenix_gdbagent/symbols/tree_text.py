"""A value as text in the words of Rust's Debug form.

``Some(Item { id: 5, state: Ready })``: a variant is told from a string, and `None` from
`Some(None)`. Beyond Debug: a lock's word stands beside what it guards, large and page-aligned
numbers are hexadecimal, addresses have the symbol that they are in, what could not be read stands
in angle brackets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter

from breenix_gdbagent.addresses import PAGE, counted, hex64
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
from breenix_gdbagent.symbols.values import Value

NameOf = Callable[[int], str | None]
_SHORT = 24  # items up to this length share lines
_REPEATED = 4  # equal items from this number on are shown as one
_ADDRESSES = {"VirtAddr", "PhysAddr", "PageTableEntry"}


def render(value: Value, limits: Limits | None = None, width: int = 100) -> list[str]:
    """The value as lines of text, one field or item a line where one line would be too long."""
    return lines(nodes(value, limits), width, value.space.image.name_of)


def one_line(value: Value, limits: Limits | None = None) -> str:
    """The value as one line of text."""
    return line(nodes(value, limits), value.space.image.name_of)


def line(node: Node, name_of: NameOf | None = None) -> str:
    """One line of text; `name_of` names the address in a pointer."""
    found = parts(node)
    if found is None:
        return _scalar(node, name_of)
    before, inside, after = found
    pad = " " if after == " }" else ""
    shown = ", ".join(label + line(part, name_of) for label, part in inside)
    comma = "," if before == "(" and len(inside) == 1 else ""
    if not inside:
        return (before + after).replace("{ }", "{}")
    return f"{before}{pad}{shown}{comma}{after}"


def lines(node: Node, width: int, name_of: NameOf | None = None) -> list[str]:
    """As many lines as it takes to stay within `width` columns."""
    return list(_layout(node, "", "", 0, width, name_of))


def _layout(
    node: Node, label: str, comma: str, indent: int, width: int, name_of: NameOf | None
) -> Iterator[str]:
    pad = "  " * indent
    found = parts(node)
    flat = f"{pad}{label}{line(node, name_of)}{comma}"
    if len(flat) <= width or found is None or not found[1]:
        yield flat
        return
    before, inside, after = found
    if len(inside) == 1 and before.endswith("(") and not inside[0][0]:
        yield from _layout(inside[0][1], label + before, after + comma, indent, width, name_of)
        return
    yield f"{pad}{label}{before}"
    if isinstance(node, Items):
        yield from _filled(node, indent + 1, width, name_of)
    else:
        for name, part in inside:
            yield from _layout(part, name, ",", indent + 1, width, name_of)
    yield f"{pad}{after.strip()}{comma}"


def _filled(node: Items, indent: int, width: int, name_of: NameOf | None) -> Iterator[str]:
    """Items, the short ones as many a line as fit."""
    pad = "  " * indent
    row = ""
    for flat, item, times in _runs(node, name_of):
        if times >= _REPEATED:
            if row:
                yield pad + row
            row = ""
            *before, last = _layout(item, "", "", indent, width, name_of)
            yield from before
            yield f"{last} <repeats {times} times>,"
        elif len(flat) > _SHORT:
            if row:
                yield pad + row
            row = ""
            yield from _layout(item, "", ",", indent, width, name_of)
        elif row and len(pad) + len(row) + len(flat) + 2 > width:
            yield pad + row
            row = f"{flat},"
        else:
            row += f"{' ' if row else ''}{flat},"
    if row:
        yield pad + row


def _runs(node: Items, name_of: NameOf | None) -> Iterator[tuple[str, Node, int]]:
    """(text, item, how many of it one after another); fewer than `_REPEATED` come one by one."""
    found = [(line(item, name_of), item) for item in node.items]
    for _, equal in groupby(found, key=itemgetter(0)):
        run = list(equal)
        if len(run) >= _REPEATED:
            yield (*run[0], len(run))
        else:
            for flat, item in run:
                yield flat, item, 1


_Parts = tuple[str, list[tuple[str, Node]], str]


def parts(node: Node) -> _Parts | None:
    """(opening, labelled parts, closing) of what has parts, None of what has none."""
    match node:
        case Items(items, unordered):
            return ("{", [("", i) for i in items], "}") if unordered else (
                "[", [("", i) for i in items], "]")  # fmt: skip
        case Pairs(pairs, rest):
            inside: list[tuple[str, Node]] = [(f"{line(key)}: ", item) for key, item in pairs]
            return "{", [*inside, *([("", rest)] if rest is not None else [])], "}"
        case Struct(name, fields):
            return _fields(name, fields)
        case Variant(name, fields):
            return None if fields is None else _fields(name, fields)
        case Guarded(name, word, held, data):
            state = {True: " (held)", False: " (free)", None: ""}[held]
            told = Variant(f"{word}{state}", None)
            return f"{name} {{", [("lock: ", told), ("data: ", data)], " }"
        case _:
            return None


def _fields(name: str, fields: Fields) -> _Parts:
    if name in _ADDRESSES:
        fields = _addresses(fields)
    if isinstance(fields, tuple):
        return (f"{name}(", [("", part) for part in fields], ")") if fields or not name else (
            name, [], "")  # fmt: skip
    opening = f"{name} {{" if name else "{"
    return opening, [(f"{key}: ", part) for key, part in fields.items()], " }"


def _addresses(fields: Fields) -> Fields:
    """Numbers among them as addresses are written, also small ones."""
    if isinstance(fields, tuple):
        return tuple(map(_address, fields))
    return {key: _address(part) for key, part in fields.items()}


def _address(node: Node) -> Node:
    plain = isinstance(node, int) and not isinstance(node, bool)
    return Variant(hex64(node), None) if plain and isinstance(node, int) else node


def _scalar(node: Node, name_of: NameOf | None) -> str:
    match node:
        case Text(text, cut):
            return quoted(text, '"') + (f"... {counted(cut, 'more byte')}" if cut else "")
        case Char(text):
            return quoted(text, "'")
        case Unknown(reason):
            return f"<{reason}>"
        case Cut(more):
            return "..." if more is None else f"... {more} more"
        case Pointer(address, what):
            name = name_of(address) if name_of and address else None
            known = ", ".join(filter(None, (what, name)))
            return f"{hex64(address)} <{known}>" if known else hex64(address)
        case Variant(name):
            return name
        case bool():
            return "true" if node else "false"
        case int():
            return number(node)
        case _:
            return str(node)


def number(value: int) -> str:
    """Hexadecimal from 32 bits on, and where it looks like the address of a page."""
    aligned = value >= 1 << 16 and value % PAGE == 0
    return hex64(value) if aligned or value >= 1 << 32 else str(value)


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0", "\\": "\\\\"}


def quoted(text: str, quote: str) -> str:
    """With the escapes of Rust's Debug form."""
    escapes = {**_ESCAPES, quote: f"\\{quote}"}
    shown = (c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text)
    return quote + "".join(escapes.get(c, s) for c, s in zip(text, shown, strict=True)) + quote
