"""The message of a Rust panic, formatted by us before the kernel's handler has printed a word.

`rust_begin_unwind(&PanicInfo)`: the first words of a ``PanicInfo`` lead to its `fmt::Arguments`, in
one of two forms (library/core/src/fmt/mod.rs): a template of bytes with the literal text in it and
an array of arguments (since Rust 1.93), or slices of pieces and arguments (before). An argument is
the address of a value and of the function that formats it, whose symbol tells the type. What cannot
be told stands as its type, ``<kernel::Thing>``, or as ``<not known>``; nothing that does not fit
either form is taken for a message.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.symbols.image import LoadedImage

Read = Callable[[int, int], bytes]

LONGEST = 4096
MOST_PARTS = 128
UNKNOWN = "<not known>"
_WORDS = 4
_ARGUMENT = struct.Struct("<QQ")
_ALTERNATE = 1 << 23
_INTEGERS = {
    f"{sign}{bits}": (int(bits) // 8, sign == "i")
    for sign in "ui"
    for bits in ("8", "16", "32", "64", "128")
} | {"usize": (8, False), "isize": (8, True)}
_TRAIT = re.compile(r"<impl core::fmt::(\w+) for (.+?)>::fmt|<(.+?) as core::fmt::(\w+)>::fmt")


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


def _template(at: int, read: Read) -> Iterator[str | tuple[int, int | None]]:
    """Literal pieces, and (flags, index of the argument or None) for each placeholder."""
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
            flags, index = 0, None
            for bit, size in ((0, 4), (1, 2), (2, 2), (3, 2)):
                if code >> bit & 1:
                    value = int.from_bytes(read(at, size), "little")
                    at += size
                    flags = value if bit == 0 else flags
                    index = value if bit == 3 else index
            yield flags, index
        else:
            raise _NoMessage
    raise _NoMessage


def _filled(
    parts: list[str | tuple[int, int | None]],
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
        flags, index = part
        following = following if index is None else index
        out.append(_argument(arguments + 16 * following, flags, read, image, depth))
        following += 1
    return "".join(out)


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
            out.append(_argument(place, _ALTERNATE, read, image, depth) if arguments else UNKNOWN)
        out.append(text)
    return "".join(out)


def _argument(at: int, flags: int, read: Read, image: LoadedImage | None, depth: int) -> str:
    """One argument, formatted as its function would, as far as its symbol tells."""
    try:
        value, function = _ARGUMENT.unpack(read(at, 16))
        hit = None if image is None else image.symbol_at(function)
        if hit is None:
            return UNKNOWN
        unformatted = UNKNOWN
        for name in (hit.name, *hit.also):
            match = _TRAIT.search(name)
            if match is None:
                continue
            trait, type_ = match[1] or match[4], match[2] or match[3]
            text = _formatted(trait, type_, value, flags, read, image, depth)
            if text is not None:
                return text
            unformatted = f"<{type_}>"
        return unformatted
    except (ReadError, UnicodeDecodeError, _NoMessage):
        pass
    return UNKNOWN


def _formatted(
    trait: str,
    type_: str,
    value: int,
    flags: int,
    read: Read,
    image: LoadedImage | None,
    depth: int,
) -> str | None:
    while type_.startswith("&") and type_ != "&str":
        type_ = type_[1:].removeprefix("mut ")
        value = int.from_bytes(read(value, 8), "little")
    if type_ in _INTEGERS:
        size, signed = _INTEGERS[type_]
        number = int.from_bytes(read(value, size), "little", signed=signed)
        if trait in ("LowerHex", "UpperHex", "Pointer"):
            digits = f"{number & (1 << 8 * size) - 1:x}"
            digits = digits.upper() if trait == "UpperHex" else digits
            return f"0x{digits}" if flags & _ALTERNATE else digits
        return str(number)
    if type_ in ("&str", "str"):
        start, length = struct.unpack("<QQ", read(value, 16))
        return _text(start, length, read) if length else ""
    if type_.endswith("string::String"):
        words = sorted(struct.unpack("<3Q", read(value, 24)))
        return _text(words[2], words[0], read) if words[0] else ""
    if type_ == "bool":
        return "true" if read(value, 1)[0] else "false"
    if type_.startswith("core::fmt::Arguments"):
        return _arguments(value, read, image, depth + 1)
    return None
