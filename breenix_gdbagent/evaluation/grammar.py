"""How expressions are read: tokens, and recursive descent to functions that evaluate."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

from breenix_gdbagent.errors import InputError, ReadError, SymbolNotFound
from breenix_gdbagent.evaluation.conversion import convert, dereferenced, indexed, sliced, words
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.operands import (
    compare,
    is_register,
    number,
    register_named,
    truth,
)
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.symbols.values import Value

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.known import Known
    from breenix_gdbagent.evaluation.operands import Evaluate
    from breenix_gdbagent.symbols import LoadedImage
    from breenix_gdbagent.symbols.types import Type

_TOKENS = re.compile(
    r"""\s*(?:
      (?P<number>0[xX][0-9a-fA-F_]+|[0-9][0-9_]*)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<quoted>`[^`]*`)
    | (?P<name>\$?[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z_{}\#0-9]+)*|\$\$?[0-9]*)
    | (?P<sign>==|!=|<=|>=|<<|>>|&&|\|\||\.\.|[-+*/%&|^~!<>()\[\].,;@])
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


class _Name:
    """A variable of the frame, else a static by path, else a function: its address. A static is
    looked up once for a kernel, and read at each evaluation."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.known: tuple[LoadedImage, Type, int] | None = None

    def __call__(self, evaluation: Evaluation) -> Known:
        if "::" not in self.path:
            variable = evaluation.variable(self.path)
            if variable is not None:
                if variable.value is None:
                    raise ReadError(f"{self.path} is {variable.why}")
                return variable.value
        return self.static(evaluation)

    def static(self, evaluation: Evaluation) -> Known:
        loaded = evaluation.kernel.stop.loaded
        if self.known is not None and self.known[0] == loaded:
            return evaluation.kernel.structures.values.at(self.known[1], self.known[2])
        try:
            if not loaded.image.has_dwarf:
                raise SymbolNotFound(self.path)
            values = evaluation.kernel.structures.values
            found = values.static(self.path)
        except SymbolNotFound:
            address = _function(loaded, self.path)
            if address is None:
                raise
            return address
        if found.address is not None:
            self.known = (values.image, found.type, found.address)
        return found


def _with_variant(sign: str, left: Evaluate, name: _Name) -> Evaluate:
    """``left == name``: of an enum a name is one of its variants, ``Terminated`` or
    ``ThreadState::Terminated``; else it is what any name is."""

    def evaluate(evaluation: Evaluation) -> Known:
        value = left(evaluation)
        last = name.path.rsplit("::", 1)[-1]
        variants = _variants(value)
        if value is None or last in variants:
            return compare(sign, value, last)
        try:
            return compare(sign, value, name(evaluation))
        except SymbolNotFound as unknown:
            if not variants or not isinstance(value, Value):
                raise
            raise InputError(
                f"{value.peel().type.name} has no variant {last}",
                fix=f"one of {', '.join(variants)}",
            ) from unknown

    return evaluate


def _variants(value: Known) -> tuple[str, ...]:
    """The names of an enum's variants, () for anything else."""
    if not isinstance(value, Value):
        return ()
    kind = value.peel().type
    if kind.variants is not None:
        return tuple(variant.name for variant in kind.variants.variants)
    return tuple(name for name, _ in kind.enumerators)


def _function(loaded: LoadedImage, path: str) -> int | None:
    """The address of the function or label of that path; None when there is none. Raises
    `ReadError` for data, whose type is not known."""
    symbols = [s for s in loaded.image.symbols.matching(path)]
    if not symbols:
        return None
    if not any(s.executable for s in symbols):
        raise ReadError(
            f"{path} has no type here, so its value is not known: the kernel's ELF has no debug "
            "information (DWARF) of it",
            fix=f"write u64[&{path}]",
        )
    return loaded.va_of(path)


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
    return lambda s: indexed(inside(s), number(index(s)))


def _slice(inside: Evaluate, first: Evaluate | None, end: Evaluate | None) -> Evaluate:
    def evaluate(evaluation: Evaluation) -> Known:
        low = 0 if first is None else number(first(evaluation))
        high = None if end is None else number(end(evaluation))
        return sliced(inside(evaluation), low, high)

    return evaluate


class Grammar:
    """One text. Each method reads on and gives the evaluation of what it has read.

    `statics` and `typed` collect what the expression needs, see `Expression`; `kept` are the
    names of values that were kept (``$1``).
    """

    def __init__(self, text: str, kept: Collection[str] = ()) -> None:
        self.text = text
        self.kept = kept
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

    def index(self) -> tuple[Evaluate | None, Evaluate | None, bool]:
        """Behind ``[``: (the index or where a slice begins, where it ends, whether it is one)."""
        bounds: list[Evaluate | None] = [None, None]
        if self.here.text != "..":
            bounds[0] = self.inside(lambda: self.binary(0))
        ranged = self.take("..") is not None
        if ranged and self.here.text != "]":
            bounds[1] = self.inside(lambda: self.binary(0))
        self.need("]")
        return bounds[0], bounds[1], ranged

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
        start = self.at
        left = self.binary(0)
        middle = self.at
        sign = self.take("==", "!=", "<=", ">=", "<", ">")
        if sign is None:
            return left
        right = self.binary(0)
        # A literal is no enum: what is compared with one is a variable, and has to be there.
        sides = self.tokens[start:middle], self.tokens[middle : self.at]
        named = all(any(token.kind == "name" for token in side) for side in sides)
        if sign in ("==", "!=") and named:
            for one, other in ((left, right), (right, left)):
                if isinstance(other, _Name):
                    self.statics.remove(other.path)  # a variant of an enum, it may be
                    return _with_variant(sign, one, other)
        return lambda s: compare(sign, left(s), right(s))

    def binary(self, level: int) -> Evaluate:
        if level == len(_BINARY):
            return self.converted()
        found = self.binary(level + 1)
        while (sign := self.take(*_BINARY[level])) is not None:
            found = _applied(_BINARY[level][sign], sign, found, self.binary(level + 1))
        return found

    def converted(self) -> Evaluate:
        found = self.unary()
        while self.take("as"):
            found = self.to_type(found, self.type_text())
        return found

    def to_type(self, inner: Evaluate, name: str) -> Evaluate:
        return lambda s: convert(s, inner(s), name)

    def type_text(self) -> str:
        """A type of Rust's as it is written: ``u32``, ``*const a::B<C>``, ``[u8; 4]``."""
        begin = self.here.at
        while self.take("*", "&", "const", "mut"):
            continue
        token = self.here
        if token.kind == "quoted":
            self.at += 1
        elif self.take("["):
            self.type_text()
            self.need(";")
            if self.here.kind != "number":
                raise self.wrong("a length is expected")
            self.at += 1
            self.need("]")
        elif token.kind == "name":
            self.at += 1
            if self.here.text == "<" and self.here.at == token.at + len(token.text):
                self.generics()
        else:
            raise self.wrong("a type is expected")
        return self.text[begin : self.here.at].strip().replace("`", "")

    def generics(self) -> None:
        """``<...>`` behind a type's name, with what is nested in it."""
        depth = 0
        while self.here.kind != "end":
            sign = self.here.text if self.here.kind == "sign" else ""
            depth += {"<": 1, "<<": 2, ">": -1, ">>": -2}.get(sign, 0)
            self.at += 1
            if depth <= 0:
                return
        raise self.wrong("'>' is missing")

    def unary(self) -> Evaluate:
        if self.take("*"):
            if self.here.text == "&" and self.here.kind == "sign":
                self.at += 1
                return self.inside(self.unary)
            pointer = self.inside(self.unary)
            return lambda s: dereferenced(s, pointer(s))
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
                first, end, ranged = self.index()
                self.typed = True
                if ranged:
                    found = _slice(found, first, end)
                elif first is not None:
                    found = _item(found, first)
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
            at, end, ranged = self.index()
            size = _MEMORY[name]
            if at is None or (ranged and end is None):
                raise self.wrong("both ends of the memory are expected")
            if end is not None:
                return lambda s: words(s, number(at(s)), number(end(s)), size)
            return lambda s: int.from_bytes(s.memory.read(number(at(s)) & _MASK, size), "little")
        if is_register(name):
            return lambda s: register_named(s, name)
        if name in ("true", "false"):
            return lambda s: name == "true"
        if name == "None":
            return lambda s: None
        if self.take("@"):
            place = self.inside(self.primary)
            self.typed = True
            return lambda s: s.kernel.structures.values.at(name, number(place(s)))
        if name in _SPECIAL:
            self.typed = True
            return _special(name)
        if name.startswith("$"):
            if name not in self.kept:
                raise self.wrong(f"there is no register {name}, before")
            return lambda s: s.kept[name]
        self.typed = True
        self.statics.append(name)
        return _Name(name)


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
