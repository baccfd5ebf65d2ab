"""How expressions are read: tokens, and recursive descent to functions that evaluate."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.operands import (
    LOWER,
    REGISTERS,
    compare,
    number,
    register,
    truth,
)
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.symbols.values import Value

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.operands import Evaluate, Known
    from breenix_gdbagent.symbols import LoadedImage
    from breenix_gdbagent.symbols.types import Type

_TOKENS = re.compile(
    r"""\s*(?:
      (?P<number>0[xX][0-9a-fA-F_]+|[0-9][0-9_]*)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<quoted>`[^`]*`)
    | (?P<name>\$?[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z_{}\#0-9]+)*)
    | (?P<sign>==|!=|<=|>=|<<|>>|&&|\|\||[-+*/%&|^~!<>()\[\].,@])
    )""",
    re.VERBOSE,
)
_BINARY: tuple[dict[str, Callable[[int, int], int]], ...] = (
    {"|": operator.or_},
    {"^": operator.xor},
    {"&": operator.and_},
    {"<<": lambda a, b: a << min(b, 64), ">>": lambda a, b: a >> min(b, 64)},
    {"+": operator.add, "-": operator.sub},
    {
        "*": operator.mul,
        "/": lambda a, b: _quotient(a, b),
        "%": lambda a, b: a - _quotient(a, b) * b,
    },
)
_MEMORY = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
_SPECIAL = ("cpu", "ring", "tid", "pid", "thread", "process")
_MASK = (1 << 64) - 1
_DEEP = 32
_LONG = 400
"""Tokens of one expression: what it is read to is evaluated call in call."""


class Token(NamedTuple):
    """`kind`: number, text, quoted, name, sign, end."""

    kind: str
    text: str
    at: int


class _Static:
    """A static by path: looked up once for a kernel, read at each evaluation."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.known: tuple[LoadedImage, Type, int] | None = None

    def __call__(self, evaluation: Evaluation) -> Value:
        values = evaluation.kernel.structures.values
        if self.known is None or self.known[0] != values.image:
            found = values.static(self.path)
            if found.address is None:
                return found
            self.known = (values.image, found.type, found.address)
        return values.at(self.known[1], self.known[2])


def _special(name: str) -> Evaluate:
    def evaluate(evaluation: Evaluation) -> Known:
        if name == "cpu":
            return evaluation.cpu.index
        if name == "ring":
            return evaluation.cpu.cpl
        if name == "tid":
            thread = evaluation.thread
            return None if thread is None else number(thread["id"])
        if name == "pid":
            return evaluation.pid
        return evaluation.thread if name == "thread" else evaluation.process

    return evaluate


def _field(inside: Evaluate, name: str) -> Evaluate:
    def evaluate(evaluation: Evaluation) -> Known:
        value = inside(evaluation)
        if value is None:
            return None
        if not isinstance(value, Value):
            raise InputError(f"{value!r} has no field {name}")
        return value[name]

    return evaluate


def _item(inside: Evaluate, index: Evaluate) -> Evaluate:
    def evaluate(evaluation: Evaluation) -> Known:
        value = inside(evaluation)
        if not isinstance(value, Value):
            raise InputError(f"{value!r} has no items")
        return value.item(number(index(evaluation)))

    return evaluate


class Grammar:
    """One text. Each method reads on and gives the evaluation of what it has read.

    `statics` and `typed` collect what the expression needs, see `Expression`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        if len(self.tokens) > _LONG:
            raise InputError(f"an expression of {len(self.tokens)} words and signs is too long")
        self.at = 0
        self.depth = 0
        self.statics: list[str] = []
        self.typed = False

    @property
    def here(self) -> Token:
        return self.tokens[self.at]

    def take(self, *texts: str) -> str | None:
        """The next token when it is one of these signs or words."""
        token = self.here
        if token.kind in ("sign", "name") and token.text in texts:
            self.at += 1
            return token.text
        return None

    def need(self, text: str) -> None:
        if self.take(text) is None:
            raise self.wrong(f"{text!r} is missing")

    def wrong(self, what: str) -> InputError:
        rest = self.text[self.here.at :].strip()
        where = f"at {rest!r}" if rest else "at its end"
        return InputError(f"cannot read {self.text.strip()!r}: {what} {where}")

    def whole(self) -> Evaluate:
        found = self.either()
        if self.here.kind != "end":
            raise self.wrong("something else is expected")
        return found

    def inside(self, read: Callable[[], Evaluate]) -> Evaluate:
        """What `read` reads, as part of something that is being read."""
        self.depth += 1
        if self.depth > _DEEP:
            raise self.wrong("it is nested too deeply")
        found = read()
        self.depth -= 1
        return found

    def index(self) -> Evaluate:
        """Behind ``[``."""
        found = self.inside(lambda: self.binary(0))
        self.need("]")
        return found

    def either(self) -> Evaluate:
        parts = [self.both()]
        while self.take("or", "||"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else lambda s: any(truth(p(s)) for p in parts)

    def both(self) -> Evaluate:
        parts = [self.negated()]
        while self.take("and", "&&"):
            parts.append(self.negated())
        return parts[0] if len(parts) == 1 else lambda s: all(truth(p(s)) for p in parts)

    def negated(self) -> Evaluate:
        if self.take("not", "!"):
            inner = self.inside(self.negated)
            return lambda s: not truth(inner(s))
        left = self.binary(0)
        sign = self.take("==", "!=", "<=", ">=", "<", ">")
        if sign is None:
            return left
        right = self.binary(0)
        return lambda s: compare(sign, left(s), right(s))

    def binary(self, level: int) -> Evaluate:
        if level == len(_BINARY):
            return self.unary()
        found = self.binary(level + 1)
        while (sign := self.take(*_BINARY[level])) is not None:
            found = _applied(_BINARY[level][sign], sign, found, self.binary(level + 1))
        return found

    def unary(self) -> Evaluate:
        if self.take("-"):
            inner = self.inside(self.unary)
            return lambda s: -number(inner(s))
        if self.take("~"):
            inner = self.inside(self.unary)
            return lambda s: ~number(inner(s)) & _MASK
        if self.take("&"):
            return self.address()
        return self.postfix(self.primary())

    def address(self) -> Evaluate:
        """``&name``: of a symbol, else of a static or what follows from it."""
        token = self.here
        if token.kind not in ("name", "quoted"):
            raise self.wrong("a name is expected")
        begin = self.at
        self.at += 1
        name = token.text.strip("`")
        if self.here.text not in (".", "[") and name not in _SPECIAL:
            return lambda s: _address_of(s, name)
        self.at = begin
        inner = self.postfix(self.primary())

        def evaluate(evaluation: Evaluation) -> Known:
            value = inner(evaluation)
            if not isinstance(value, Value) or value.address is None:
                raise InputError(f"{name} has no address")
            return value.address

        return evaluate

    def postfix(self, found: Evaluate) -> Evaluate:
        while True:
            if self.take("."):
                token = self.here
                if token.kind not in ("name", "number"):
                    raise self.wrong("a field's name is expected")
                self.at += 1
                self.typed = True
                found = _field(found, token.text)
            elif self.take("["):
                index = self.index()
                self.typed = True
                found = _item(found, index)
            else:
                return found

    def primary(self) -> Evaluate:
        token = self.here
        if self.take("("):
            found = self.inside(self.either)
            self.need(")")
            return found
        self.at += 1
        if token.kind == "number":
            value = parse_number(token.text)
            return lambda s: value
        if token.kind == "text":
            text = re.sub(r"\\(.)", r"\1", token.text[1:-1])
            return lambda s: text
        if token.kind == "quoted":
            return self.named(token.text.strip("`"))
        if token.kind == "name":
            return self.named(token.text)
        self.at -= 1
        raise self.wrong("a value is expected")

    def named(self, name: str) -> Evaluate:
        if name in _MEMORY and self.take("["):
            at = self.index()
            size = _MEMORY[name]
            return lambda s: int.from_bytes(s.memory.read(number(at(s)) & _MASK, size), "little")
        bare = name.removeprefix("$")
        if bare in REGISTERS or bare in LOWER:
            return lambda s: register(s, bare)
        if name in ("true", "false"):
            return lambda s: name == "true"
        if name == "None":
            return lambda s: None
        if self.take("@"):
            place = self.inside(self.primary)
            self.typed = True
            return lambda s: s.kernel.structures.values.at(name, number(place(s)))
        self.typed = True
        if name in _SPECIAL:
            return _special(name)
        if name.startswith("$"):
            raise self.wrong(f"there is no register {name}, before")
        self.statics.append(name)
        return _Static(name)


def _quotient(a: int, b: int) -> int:
    """Towards 0, as Rust has it."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _applied(
    apply: Callable[[int, int], int], sign: str, left: Evaluate, right: Evaluate
) -> Evaluate:
    def evaluate(evaluation: Evaluation) -> Known:
        a, b = number(left(evaluation)), number(right(evaluation))
        if sign in "/%" and b == 0:
            raise InputError("division by 0")
        if sign in ("<<", ">>") and b < 0:
            raise InputError("a shift by a negative number")
        return apply(a, b)

    return evaluate


def _address_of(evaluation: Evaluation, name: str) -> int:
    return evaluation.kernel.stop.loaded.va_of(name)


def pieces(text: str) -> list[str]:
    """The parts of `text` between commas that stand outside of brackets and quotes."""
    found: list[str] = []
    depth = begin = 0
    for token in _tokens(text):
        if token.kind == "sign" and token.text in "([":
            depth += 1
        elif token.kind == "sign" and token.text in ")]":
            depth -= 1
        elif token.kind == "end" or (token.text == "," and token.kind == "sign" and depth == 0):
            found.append(text[begin : token.at])
            begin = token.at + 1
    return found


def _tokens(text: str) -> list[Token]:
    found = []
    at = 0
    while text[at:].strip():
        match = _TOKENS.match(text, at)
        if match is None or match.lastgroup is None:
            raise InputError(f"cannot read {text.strip()!r}: stray {text[at:].strip()[0]!r}")
        found.append(Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        at = match.end()
    found.append(Token("end", "", len(text)))
    return found
