"""Where a breakpoint is to be, as users write it: address, symbol, file and line, exception vector.

A place of the kernel is kept as link addresses until the load bias is known; before that, its
breakpoints stand at every address where the kernel may be loaded, if those are few.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import InputError, ReadError, SymbolNotFound
from breenix_gdbagent.evaluation.operands import is_register
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.x86.vectors import VECTOR_NAMES

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.evaluation import Evaluation

_LINE = re.compile(r"(?P<file>[^:\s]+\.\w+):(?P<line>\d+)\Z")
_PATH = re.compile(r"[A-Za-z_<][\w:<>{}#]*\Z")
_OFFSET = re.compile(r"(?P<name>.+?)\+(?P<offset>0[xX][0-9a-fA-F_]+|\d+)\Z")
_WHEN = re.compile(r"\b(process|cpu|count|if)\b")
_MASK = (1 << 64) - 1
_NEAR = 4
_VECTORS = {name.lower().lstrip("#"): vector for vector, name in VECTOR_NAMES.items()}
VECTORS = 256


@dataclass(frozen=True, slots=True)
class Place:
    """`text` is what the user wrote. One of: `fixed` virtual addresses, `links` (link addresses of
    the kernel's ELF), `vector` (the handler that the IDT names for it). `note` says what the place
    really is where that is not obvious."""

    text: str
    fixed: tuple[int, ...] = ()
    links: tuple[int, ...] = ()
    vector: int | None = None
    note: str = ""

    def at(self, bias: int) -> tuple[int, ...]:
        """Virtual addresses with the kernel at `bias`."""
        return self.at_any((bias,))

    def at_any(self, biases: Iterable[int]) -> tuple[int, ...]:
        """Virtual addresses with the kernel at any of these biases, each once."""
        moved = [(link + bias) & _MASK for bias in biases for link in self.links]
        return tuple(dict.fromkeys((*self.fixed, *moved)))


def find_place(text: str, image: Image | None, evaluation: Evaluation | None = None) -> Place:
    """The place that `text` names: ``0x...``, ``symbol``, ``symbol+offset``, ``file.rs:12``, or
    with an `evaluation` any expression, a ``*`` before it or not.

    A function that was inlined everywhere is each of its copies. Raises `InputError`,
    `SymbolNotFound`, `ReadError`.
    """
    text = text.strip().strip("`")
    bare = text.removeprefix("*").removeprefix("&").strip()
    number = parse_number(bare)
    if number is not None:
        return Place(text, fixed=(number,))
    if not bare:
        raise InputError("no location", fix="write 0x..., a symbol, or file.rs:12")
    if evaluation is None or not is_register(bare):
        try:
            return _in_image(bare, image)
        except (InputError, SymbolNotFound):
            if evaluation is None or _PATH.match(bare):
                raise
    assert evaluation is not None
    from breenix_gdbagent.evaluation.expressions import address_at

    address = address_at(evaluation, text[1:] if text.startswith("*") else text)
    return Place(text, fixed=(address,))


def _in_image(text: str, image: Image | None) -> Place:
    if image is None:
        raise InputError(
            f"{text!r} is no number, and without the kernel's ELF no symbol is known",
            fix="give --kernel ELF, or write the address as 0x...",
        )
    line = _LINE.match(text)
    return _line(text, line, image) if line is not None else _symbol(text, image)


def _line(text: str, found: re.Match[str], image: Image) -> Place:
    if not image.has_dwarf:
        raise ReadError(f"no line of {image.path.name} is known: it has no debug information")
    from breenix_gdbagent.symbols.where import code_of_line

    code = code_of_line(image.debug, found["file"], int(found["line"]))
    note = "" if code.line == int(found["line"]) else f"line {code.line}, the next with code"
    if len(code.starts) > 1:
        note = f"{note}, " if note else ""
        note += f"{len(code.starts)} places"
    return Place(text, links=code.starts, note=note)


def _symbol(text: str, image: Image) -> Place:
    found = image.addresses_of(text)
    if found:
        return Place(text, links=found, note="" if len(found) == 1 else f"{len(found)} places")
    plus = _OFFSET.match(text)
    if plus is not None and (base := image.addresses_of(plus["name"].strip())):
        offset = parse_number(plus["offset"]) or 0
        return Place(text, links=tuple(a + offset for a in base))
    if image.has_dwarf:
        from breenix_gdbagent.symbols.where import inlined_code

        copies = inlined_code(image.debug, text)
        if copies:
            count = "one copy" if len(copies) == 1 else f"{len(copies)} copies"
            return Place(text, links=copies, note=f"inlined, {count}")
    raise SymbolNotFound(text, _near(text, image))


def _near(text: str, image: Image) -> tuple[str, ...]:
    """Functions of the module of that name, else names that resemble it."""
    inside = (s.name for s in image.find(text + "::") if s.kind == "function" and "{" not in s.name)
    functions = [name for name, _ in zip(dict.fromkeys(inside), range(_NEAR), strict=False)]
    return tuple(functions) or image.symbols.near(text)


def parse_vector(text: str) -> int:
    """``14``, ``0xe``, ``#PF`` or ``pf``. Raises `InputError`."""
    number = parse_number(text)
    if number is None:
        number = _VECTORS.get(text.lower().lstrip("#"))
    if number is None or number >= VECTORS:
        raise InputError(
            f"{text!r} is no exception vector", fix="write 0 to 255, or a name: #PF #GP #UD #DF"
        )
    return number


def vector_place(vector: int) -> Place:
    """The handler of an exception or interrupt, wherever the IDT has it."""
    name = VECTOR_NAMES.get(vector)
    return Place(f"exception {vector}" + (f" ({name})" if name else ""), vector=vector)


def split_location(text: str) -> tuple[str, str]:
    """(location, the rest): the first word, what stands in backquotes, or behind a ``*`` or ``&``
    all up to a word that says when."""
    text = text.strip()
    if text[:1] in ("*", "&"):
        when = _WHEN.search(text)
        return (text, "") if when is None else (text[: when.start()].strip(), text[when.start() :])
    if text.startswith("`") and (end := text.find("`", 1)) > 0:
        return text[1:end], text[end + 1 :].strip()
    head, _, rest = text.partition(" ")
    return head, rest.strip()


def joined(addresses: Iterable[int], most: int = 4) -> str:
    """Addresses in a sentence, not more than a few."""
    shown = [f"{a:#x}" for a in addresses]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
