"""One argument of a Rust panic's message: the address of a value and of the function that formats
it.

What type that is, the function's symbol tells for the plain ones and DWARF (the type of its `self`)
for all others. A value is written as its function would write it; what cannot be told stands as its
type, ``<kernel::Thing>``, with its fields where only they are known (``<kernel::Thing: Thing(5)>``
of a `Display` that is the kernel's own), or as ``<not known>``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace

from breenix_gdbagent.errors import InputError, ReadError, ValueCorrupt
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols import rust_format
from breenix_gdbagent.symbols.image import LoadedImage
from breenix_gdbagent.symbols.rust_format import Spec
from breenix_gdbagent.symbols.symtab import SymbolHit
from breenix_gdbagent.symbols.types import Type

Read = Callable[[int, int], bytes]

LONGEST = 4096
UNKNOWN = "<not known>"
FORMAT_IN_VTABLE = 24  # behind drop, size and align
_DEPTH = 3
_MOST = 256  # arguments, and what trait objects in them lead to
_INTEGERS = {
    f"{sign}{bits}": (int(bits) // 8, sign == "i")
    for sign in "ui"
    for bits in ("8", "16", "32", "64", "128")
} | {"usize": (8, False), "isize": (8, True)}
_TRAIT = re.compile(r"<impl core::fmt::(\w+) for (.+?)>::fmt|<(.+?) as core::fmt::(\w+)>::fmt")


class ArgumentText:
    """Formats arguments with `read(va, length)`, which raises `ReadError`. `nested(va)` formats a
    `fmt::Arguments` that is an argument itself."""

    def __init__(self, read: Read, image: LoadedImage | None, nested: Callable[[int], str]) -> None:
        self.read = read
        self.image = image
        self.nested = nested
        self.depth = 0
        self.left = _MOST

    def text(self, value: int, function: int, spec: Spec) -> str:
        """The value at `value` as the function at `function` writes it."""
        hit = None if self.image is None else self.image.symbol_at(function)
        self.left -= 1
        if hit is None or self.depth > _DEPTH or self.left < 0:
            return UNKNOWN
        self.depth += 1
        try:
            return self._text(value, function, hit, spec)
        except (ReadError, ValueCorrupt, UnicodeDecodeError):
            return UNKNOWN
        finally:
            self.depth -= 1

    def _text(self, value: int, function: int, hit: SymbolHit, spec: Spec) -> str:
        said = {
            (match[1] or match[4], match[2] or match[3]): None
            for name in (hit.name, *hit.also)
            if (match := _TRAIT.search(name)) is not None
        }
        for trait, type_ in said:
            text = self._plain(type_, value, replace(spec, trait=trait))
            if text is not None:
                return text
        if not said:
            return UNKNOWN
        names = list(dict.fromkeys(type_ for _, type_ in said))
        if all(name.startswith("&dyn core::fmt::") for name in names):
            return self._trait_object(value, spec)
        if len(names) > 1:
            return f"<one of {', '.join(names)}>"
        ((trait, name),) = said
        try:
            typed = self._typed(value, function, replace(spec, trait=trait))
        except InputError:
            typed = None
        return f"<{name}>" if typed is None else typed

    def _plain(self, type_: str, value: int, spec: Spec) -> str | None:
        """A value of a type that its name tells; None for all others."""
        while type_.startswith("&") and type_ != "&str":
            type_ = type_[1:].removeprefix("mut ")
            value = int.from_bytes(self.read(value, 8), "little")
        if type_ in _INTEGERS and spec.trait != "Pointer":
            size, signed = _INTEGERS[type_]
            number = int.from_bytes(self.read(value, size), "little", signed=signed)
            return rust_format.integer(number, size, spec)
        if type_ in ("f32", "f64"):
            size = int(type_[1:]) // 8
            (real,) = struct.unpack("<f" if size == 4 else "<d", self.read(value, size))
            return rust_format.real(real, size, spec)
        if type_ == "char":
            code = int.from_bytes(self.read(value, 4), "little")
            return rust_format.character(chr(code), spec) if code <= 0x10FFFF else None
        if type_ in ("&str", "str"):
            start, length = struct.unpack("<QQ", self.read(value, 16))
            return rust_format.text(self._string(start, length), spec)
        if type_.endswith("string::String"):
            words = sorted(struct.unpack("<3Q", self.read(value, 24)))
            return rust_format.text(self._string(words[2], words[0]), spec)
        if type_ == "bool":
            return rust_format.boolean(self.read(value, 1)[0] != 0, spec)
        if type_.startswith("core::fmt::Arguments"):
            return self.nested(value)
        return None

    def _trait_object(self, at: int, spec: Spec) -> str:
        """What a ``&dyn Debug`` (or another trait of formatting) at `at` leads to."""
        data, table = struct.unpack("<QQ", self.read(at, 16))
        function = int.from_bytes(self.read(table + FORMAT_IN_VTABLE, 8), "little")
        return self.text(data, function, spec)

    def _string(self, start: int, length: int) -> str:
        if length > LONGEST:
            raise ReadError(f"a text of {length} bytes is longer than any message")
        return self.read(start, length).decode("utf-8") if length else ""

    # -- by DWARF ---------------------------------------------------------------------------

    def _typed(self, value: int, function: int, spec: Spec) -> str | None:
        """A value whose type DWARF tells; None where it does not. Raises `InputError` for DWARF
        that is damaged."""
        from breenix_gdbagent.symbols.rust_debug import debug_text, type_path
        from breenix_gdbagent.symbols.values import Value, Values

        type_ = self._self_type(function)
        if type_ is None or self.image is None:
            return None
        values = Values(self.image, self.read)
        here: Value = values.at(type_, value)
        while here.type.kind == "pointer" and here.type.name.startswith("&"):
            here = here.deref()
        name = here.type.name
        if name.startswith("&dyn core::fmt::"):
            assert here.address is not None
            return self._trait_object(here.address, spec)
        if name.startswith("Arguments") and here.address is not None:
            return self.nested(here.address)
        if spec.trait == "Pointer":
            return rust_format.address(here.pointer(), spec)
        if spec.trait == "Debug" or here.type.kind == "base" or name in ("&str", "String"):
            return debug_text(here, spec, self.text)
        path = type_path(values.types, here.type)
        return f"<{path}: {debug_text(here, Spec('Debug'), self.text)}>"

    def _self_type(self, function: int) -> Type | None:
        """What the first parameter of a formatting function, ``&self``, points to."""
        assert self.image is not None
        image = self.image.image
        if not image.has_dwarf:
            return None
        debug = image.debug
        found = debug.index.function_at(self.image.link(function))
        if found is None:
            return None
        die = debug.dwarf.origin(debug.dwarf.die(found.die))
        for child in debug.dwarf.children(die):
            if child.tag == dw.DW_TAG_formal_parameter:
                pointer = debug.types.of(debug.dwarf.origin(child))
                return None if pointer.target is None else debug.types.at(pointer.target)
        return None
