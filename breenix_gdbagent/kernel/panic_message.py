"""The message of a Rust panic, formatted by us before the kernel's handler has printed a word.

`rust_begin_unwind(&PanicInfo)`: the first words of a ``PanicInfo`` lead to its `fmt::Arguments`, in
one of two forms (library/core/src/fmt/mod.rs): a template of bytes with the literal text in it and
an array of arguments (since Rust 1.93), or slices of pieces and arguments (before). What cannot be
told of an argument is said (`panic_argument.py`); nothing that does not fit either form is taken
for a message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.panic_argument import LONGEST, UNKNOWN, ArgumentText, Read
from breenix_gdbagent.symbols.image import LoadedImage
from breenix_gdbagent.symbols.rust_format import Spec

MOST_PARTS = 128
_WORDS = 4
_ARGUMENT = struct.Struct("<QQ")
_ALTERNATE = 1 << 23
_PLACEHOLDER = ("flags", "width", "precision", "index")
_INDIRECT = {"width": 1 << 4, "precision": 1 << 5}  # the number is an argument's


@dataclass(frozen=True, slots=True)
class _Placeholder:
    """`index` of the argument (None: the next one); a number in `from_arguments` is the index of
    the argument that has it."""

    flags: int | None = None
    width: int = 0
    precision: int | None = None
    index: int | None = None
    from_arguments: frozenset[str] = frozenset()


class _NoMessage(Exception):
    """These bytes are no `fmt::Arguments`."""


def panic_message(info: int, read: Read, image: LoadedImage | None) -> str | None:
    """The message of the ``PanicInfo`` at `info`; None where nothing there is one.

    `read(va, length)` raises `ReadError`. Without `image` no argument is known.
    """
    try:
        words = struct.unpack(f"<{_WORDS}Q", read(info, 8 * _WORDS))
    except ReadError:
        return None
    for word in words:
        try:
            text = _arguments(word, read, image, 0)
        except (ReadError, _NoMessage, UnicodeDecodeError):
            continue
        if text.replace(UNKNOWN, "").strip() and text.replace("\n", "").isprintable():
            return text
    return None


def _arguments(at: int, read: Read, image: LoadedImage | None, depth: int) -> str:
    """A `fmt::Arguments`. Raises `_NoMessage`, `ReadError`, `UnicodeDecodeError`."""
    if depth > 3:
        return UNKNOWN
    # The older form first: its count of pieces may be odd, as the newer's length is.
    with suppress(_NoMessage, ReadError, UnicodeDecodeError):
        return _pieces(at, read, image, depth)
    first, second = struct.unpack("<QQ", read(at, 16))
    if second & 1:
        # A Location (file, line, column) of a path of odd length looks the same.
        if second <= LONGEST and read(first, second).rstrip(b"\0").endswith(b".rs"):
            raise _NoMessage
        return _text(first, second >> 1, read)
    return _filled(list(_template(first, read)), second, read, image, depth)


def _text(at: int, length: int, read: Read) -> str:
    if not 0 < length <= LONGEST:
        raise _NoMessage
    return read(at, length).decode("utf-8")


def _template(at: int, read: Read) -> Iterator[str | _Placeholder]:
    """Literal pieces and placeholders."""
    total = 0
    for number in range(MOST_PARTS):
        code = read(at, 1)[0]
        at += 1
        if code == 0:
            if not number:
                raise _NoMessage
            return
        if code < 0x80 or code == 0x80:
            length = code
            if code == 0x80:
                length = int.from_bytes(read(at, 2), "little")
                at += 2
            total += length
            if total > LONGEST:
                raise _NoMessage
            yield read(at, length).decode("utf-8")
            at += length
        elif code >= 0xC0:
            placeholder, at = _placeholder(code, at, read)
            yield placeholder
        else:
            raise _NoMessage
    raise _NoMessage


def _placeholder(code: int, at: int, read: Read) -> tuple[_Placeholder, int]:
    """The placeholder whose first byte is `code`, and where what follows it begins."""
    given: dict[str, int] = {}
    for bit, name in enumerate(_PLACEHOLDER):
        if code >> bit & 1:
            size = 4 if name == "flags" else 2
            given[name] = int.from_bytes(read(at, size), "little")
            at += size
    indirect = frozenset(name for name, bit in _INDIRECT.items() if code & bit)
    return _Placeholder(**given, from_arguments=indirect), at


def _filled(
    parts: list[str | _Placeholder],
    arguments: int,
    read: Read,
    image: LoadedImage | None,
    depth: int,
) -> str:
    out: list[str] = []
    following = 0
    for part in parts:
        if isinstance(part, str):
            out.append(part)
            continue
        following = following if part.index is None else part.index
        spec = _spec(part, arguments, read)
        out.append(_argument(arguments + 16 * following, spec, read, image, depth))
        following += 1
    return "".join(out)


def _spec(part: _Placeholder, arguments: int, read: Read) -> Spec:
    """The placeholder's options, with the numbers that are arguments themselves (``Count``: a u16
    behind a null) looked up."""
    numbers = {"width": part.width, "precision": part.precision}
    for name in part.from_arguments:
        numbers[name] = int.from_bytes(read(arguments + 16 * (numbers[name] or 0) + 8, 2), "little")
    return Spec.of(part.flags, numbers["width"] or 0, numbers["precision"])


def _pieces(at: int, read: Read, image: LoadedImage | None, depth: int) -> str:
    """The older form: slices of pieces, arguments and (maybe) placeholders, in any order."""
    words = struct.unpack("<6Q", read(at, 48))
    slices = [(words[i], words[i + 1]) for i in (0, 2, 4) if words[i]]
    texts: list[str] | None = None
    arguments = 0
    for start, count in slices:
        if not 0 < count <= MOST_PARTS:
            continue
        pairs = list(_ARGUMENT.iter_unpack(read(start, 16 * count)))
        if image is not None and all(image.holds(function) for _, function in pairs):
            arguments = start
        elif texts is None:
            texts = [_text(piece, length, read) if length else "" for piece, length in pairs]
    if not texts or not "".join(texts).replace("\n", "").isprintable():
        raise _NoMessage
    out = []
    for number, text in enumerate(texts):
        if number:
            # Placeholders with options stand in a slice of their own: hexadecimal, most likely "#".
            place = arguments + 16 * (number - 1)
            spec = Spec.of(3 << 29 | ord(" ") | _ALTERNATE)
            out.append(_argument(place, spec, read, image, depth) if arguments else UNKNOWN)
        out.append(text)
    return "".join(out)


def _argument(at: int, spec: Spec, read: Read, image: LoadedImage | None, depth: int) -> str:
    """One argument, formatted as its function would, as far as its symbol and DWARF tell."""

    def nested(arguments: int) -> str:
        return _arguments(arguments, read, image, depth + 1)

    try:
        value, function = _ARGUMENT.unpack(read(at, 16))
        return ArgumentText(read, image, nested).text(value, function, spec)
    except (ReadError, UnicodeDecodeError, _NoMessage):
        return UNKNOWN
