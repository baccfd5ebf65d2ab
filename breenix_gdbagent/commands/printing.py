"""``print``, in the shell and on the command line: an expression, as a value or in a format."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import Expression, parse
from breenix_gdbagent.evaluation.operands import number, plain
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.numbers import LETTERS, formatted

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.known import Known
    from breenix_gdbagent.symbols.tree import Node
    from breenix_gdbagent.symbols.values import Value

WORD = 8


class Printed(NamedTuple):
    """What an expression came to, and how it is shown."""

    expression: Expression
    value: Known
    lines: list[str]


def split_format(text: str) -> tuple[str, str]:
    """(format letter or "", the expression) of ``/x EXPR``. Raises `InputError`."""
    if not text.startswith("/"):
        return "", text
    letter, _, rest = text[1:].partition(" ")
    if len(letter) != 1 or letter not in LETTERS + "s":
        raise InputError(f"/{letter} is no format of print", fix=f"one of {' '.join(LETTERS)}")
    return letter, rest.strip()


def printed(evaluation: Evaluation, text: str, width: int, letter: str = "") -> Printed:
    """Evaluate, and lay out as many lines as it takes. Raises `InputError`, `ReadError`."""
    from breenix_gdbagent.symbols.tree_text import render
    from breenix_gdbagent.symbols.values import Value

    expression = parse(text, kept=evaluation.kept)
    value = expression.value(evaluation)
    if letter and letter != "s":
        lines = [_formatted(value, letter, evaluation)]
    elif isinstance(value, Value):
        lines = render(value, width=width)
    else:
        lines = [expression.told(value, evaluation)]
    return Printed(expression, value, lines)


def _formatted(value: Known, letter: str, evaluation: Evaluation) -> str:
    """A number; of a struct or a collection each number in it."""
    from breenix_gdbagent.symbols.tree import nodes
    from breenix_gdbagent.symbols.tree_text import line
    from breenix_gdbagent.symbols.values import Value

    if isinstance(value, tuple):
        return f"[{', '.join(_formatted(one, letter, evaluation) for one in value)}]"
    size = value.type.size if isinstance(value, Value) and value.type.size in (1, 2, 4, 8) else WORD
    try:
        one = number(plain(value))
    except InputError:
        if not isinstance(value, Value):
            raise
        return line(_in_format(nodes(value), letter, evaluation))
    return formatted(one, letter, size, evaluation.kernel.symbol(one) if letter == "a" else None)


def _in_format(node: Node, letter: str, evaluation: Evaluation) -> Node:
    """The tree with each number in it as text."""
    from breenix_gdbagent.symbols import tree

    def inner(one: Node) -> Node:
        return _in_format(one, letter, evaluation)

    if isinstance(node, int) and not isinstance(node, bool):
        name = evaluation.kernel.symbol(node) if letter == "a" else None
        return tree.Variant(formatted(node, letter, WORD, name), None)
    if isinstance(node, tree.Items):
        return replace(node, items=tuple(map(inner, node.items)))
    if isinstance(node, tree.Pairs):
        return replace(node, pairs=tuple((inner(k), inner(v)) for k, v in node.pairs))
    if isinstance(node, tree.Guarded):
        return replace(node, data=inner(node.data))
    if isinstance(node, tree.Struct | tree.Variant) and node.fields is not None:
        fields = node.fields
        if isinstance(fields, tuple):
            return replace(node, fields=tuple(map(inner, fields)))
        return replace(node, fields={name: inner(part) for name, part in fields.items()})
    return node


def printed_json(found: Printed) -> Json:
    """``print --json``: addresses and registers are strings, numbers are numbers."""
    from breenix_gdbagent.symbols.values import Value

    value, expression = found.value, found.expression
    place = value if isinstance(value, Value) else None
    return {
        "path": expression.text,
        "type": None if place is None else place.type.name,
        "address": None if place is None else _address(place),
        "size": None if place is None else place.type.size,
        "value": _plain_json(value, address=expression.is_address),
        "text": list[Json](found.lines),
    }


def _address(value: Value) -> str | None:
    return None if value.address is None else hex64(value.address)


def _plain_json(value: Known, *, address: bool) -> Json:
    from breenix_gdbagent.symbols.tree import nodes
    from breenix_gdbagent.symbols.tree_plain import json_of, plain_of
    from breenix_gdbagent.symbols.values import Value

    if isinstance(value, tuple):
        return [_plain_json(one, address=address) for one in value]
    if isinstance(value, Value):
        return json_of(plain_of(nodes(value)))
    if isinstance(value, int) and not isinstance(value, bool) and (address or value >> 53):
        return hex64(value & (1 << 64) - 1)
    return value
