"""The v0 mangling of rustc (RFC 2603): a recursive reader that is bounded in depth and length.

Hostile names can ask for exponential output through back references: beyond the bounds a name
is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable

_BASIC = {
    "a": "i8",
    "b": "bool",
    "c": "char",
    "d": "f64",
    "e": "str",
    "f": "f32",
    "h": "u8",
    "i": "isize",
    "j": "usize",
    "l": "i32",
    "m": "u32",
    "n": "i128",
    "o": "u128",
    "p": "_",
    "s": "i16",
    "t": "u16",
    "u": "()",
    "v": "...",
    "x": "i64",
    "y": "u64",
    "z": "!",
}
_SPECIAL = {"C": "closure", "S": "shim"}
_DEPTH = 96
_LENGTH = 8192


class _NotV0(Exception):
    """The name does not follow the grammar, or goes beyond the bounds."""


def demangle_v0(raw: str) -> str | None:
    """The path of a `_R` name without crate hashes, None when it is none."""
    reader = _Reader(raw[2:])
    try:
        return reader.path(0, value=True)
    except (_NotV0, IndexError, ValueError):
        return None


def _is_plain(path: str) -> bool:
    return all(c.isalnum() or c in "_:" for c in path)


class _Reader:
    """One pass over the text behind `_R`; every method consumes what it names."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.budget = _LENGTH
        self.bound = 0

    def take(self) -> str:
        char = self.text[self.at]
        self.at += 1
        return char

    def eat(self, char: str) -> bool:
        if self.text.startswith(char, self.at):
            self.at += 1
            return True
        return False

    def spend(self, text: str) -> str:
        self.budget -= len(text)
        if self.budget < 0:
            raise _NotV0
        return text

    def base62(self) -> int:
        if self.eat("_"):
            return 0
        value = 0
        for _ in range(12):
            char = self.take()
            if char == "_":
                return value + 1
            digit = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".index(char)
            value = value * 62 + digit
        raise _NotV0

    def optional62(self, tag: str) -> int:
        return self.base62() + 1 if self.eat(tag) else 0

    def identifier(self) -> tuple[str, int]:
        """(name, disambiguator)."""
        number = self.optional62("s")
        return self.spend(self.plain_identifier()), number

    def plain_identifier(self) -> str:
        punycode = self.eat("u")
        begin = self.at
        if not self.eat("0"):
            while self.text[self.at : self.at + 1].isdigit() and self.at - begin < 6:
                self.at += 1
        length = int(self.text[begin : self.at])
        self.eat("_")
        if self.at + length > len(self.text):
            raise _NotV0
        name = self.text[self.at : self.at + length]
        self.at += length
        if punycode:
            # RFC 2603 writes the delimiter of punycode as "_"; Python's codec wants "-".
            head, _, tail = name.rpartition("_")
            name = (f"{head}-{tail}" if head else tail).encode("ascii").decode("punycode")
        return name

    def back(self, depth: int) -> _Reader:
        """A reader at the target of a back reference, which must lie before us."""
        here = self.at - 1
        target = self.base62()
        if target >= here or depth > _DEPTH:
            raise _NotV0
        other = _Reader(self.text)
        other.at, other.budget, other.bound = target, self.budget, self.bound
        return other

    def path(self, depth: int, value: bool = False) -> str:
        if depth > _DEPTH:
            raise _NotV0
        depth += 1
        tag = self.take()
        if tag == "C":
            return self.identifier()[0]
        if tag == "N":
            return self.nested(depth, value)
        if tag in "MX":
            self.optional62("s")
            self.path(depth)
        if tag in "MXY":
            return self.qualified(tag, depth)
        if tag == "I":
            base = self.path(depth, value)
            args = ", ".join(self.until_end(self.generic, depth))
            return self.spend(f"{base}::<{args}>" if value else f"{base}<{args}>")
        if tag == "B":
            other = self.back(depth)
            text = other.path(depth, value)
            self.budget = other.budget
            return self.spend(text)
        raise _NotV0

    def nested(self, depth: int, value: bool) -> str:
        space = self.take()
        base = self.path(depth, value)
        name, number = self.identifier()
        if space.isupper():
            kind = _SPECIAL.get(space, space)
            name = f"{{{kind}:{name}#{number}}}" if name else f"{{{kind}#{number}}}"
        elif not name:
            return base
        return self.spend(f"{base}::{name}")

    def qualified(self, tag: str, depth: int) -> str:
        self_type = self.type(depth)
        if tag == "M":
            return self_type if _is_plain(self_type) else self.spend(f"<{self_type}>")
        return self.spend(f"<{self_type} as {self.path(depth)}>")

    def until_end(self, what: Callable[[int], str], depth: int) -> list[str]:
        parts = []
        while not self.eat("E"):
            parts.append(what(depth))
        return parts

    def generic(self, depth: int) -> str:
        if self.eat("L"):
            return self.lifetime(self.base62())
        if self.eat("K"):
            return self.const(depth)
        return self.type(depth)

    def lifetime(self, index: int) -> str:
        if index == 0:
            return "'_"
        which = self.bound - index
        if which < 0:
            raise _NotV0
        return f"'{chr(ord('a') + which)}" if which < 26 else f"'z{which}"

    def type(self, depth: int) -> str:
        if depth > _DEPTH:
            raise _NotV0
        depth += 1
        tag = self.take()
        if tag in _BASIC:
            return self.spend(_BASIC[tag])
        if tag in "RQ":
            life = self.lifetime(self.base62()) + " " if self.eat("L") else ""
            life = "" if life == "'_ " else life
            return self.spend(f"&{life}{'mut ' if tag == 'Q' else ''}{self.type(depth)}")
        if tag in "PO":
            return self.spend(f"*{'const' if tag == 'P' else 'mut'} {self.type(depth)}")
        if tag == "S":
            return self.spend(f"[{self.type(depth)}]")
        if tag == "A":
            return self.spend(f"[{self.type(depth)}; {self.const(depth)}]")
        if tag == "T":
            parts = self.until_end(self.type, depth)
            return self.spend(f"({', '.join(parts)}{',' if len(parts) == 1 else ''})")
        if tag == "F":
            return self.function(depth)
        if tag == "D":
            return self.dyn(depth)
        if tag == "B":
            other = self.back(depth)
            text = other.type(depth)
            self.budget = other.budget
            return self.spend(text)
        self.at -= 1
        return self.path(depth)

    def binder(self) -> str:
        count = self.optional62("G")
        if count > 64:
            raise _NotV0
        self.bound += count
        names = ", ".join(self.lifetime(count - i) for i in range(count))
        return f"for<{names}> " if count else ""

    def function(self, depth: int) -> str:
        before = self.bound
        head = self.binder()
        if self.eat("U"):
            head += "unsafe "
        if self.eat("K"):
            abi = "C" if self.eat("C") else self.plain_identifier().replace("_", "-")
            head += f'extern "{abi}" '
        args = ", ".join(self.until_end(self.type, depth))
        result = "" if self.eat("u") else f" -> {self.type(depth)}"
        self.bound = before
        return self.spend(f"{head}fn({args}){result}")

    def dyn(self, depth: int) -> str:
        before = self.bound
        head = self.binder()
        bounds = " + ".join(self.until_end(self.dyn_trait, depth))
        self.bound = before
        if not self.eat("L"):
            raise _NotV0
        life = self.base62()
        return self.spend(f"dyn {head}{bounds}" + (f" + {self.lifetime(life)}" if life else ""))

    def dyn_trait(self, depth: int) -> str:
        text = self.path(depth)
        bindings = []
        while self.eat("p"):
            bindings.append(f"{self.spend(self.plain_identifier())} = {self.type(depth)}")
        if not bindings:
            return text
        inside = ", ".join(bindings)
        return f"{text[:-1]}, {inside}>" if text.endswith(">") else f"{text}<{inside}>"

    def const(self, depth: int) -> str:
        tag = self.take()
        if tag == "B":
            other = self.back(depth)
            text = other.const(depth + 1)
            self.budget = other.budget
            return self.spend(text)
        if tag == "p":
            return "_"
        kind = _BASIC.get(tag)
        if kind is None:
            raise _NotV0
        sign = "-" if self.eat("n") else ""
        end = self.text.index("_", self.at)
        digits = self.text[self.at : end] or "0"
        self.at = end + 1
        return self.spend(_constant(kind, sign, digits))


def _constant(kind: str, sign: str, digits: str) -> str:
    if len(digits) > 32:
        raise _NotV0
    value = int(digits, 16)
    if kind == "bool":
        return "true" if value else "false"
    if kind == "char":
        return repr(chr(value))
    return f"{sign}{value}" if value < 1 << 64 else f"{sign}0x{digits}"
