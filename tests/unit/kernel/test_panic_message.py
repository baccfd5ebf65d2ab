"""Panic messages formatted from memory: both forms of `fmt::Arguments`, and what is none."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.panic_message import UNKNOWN, panic_message
from breenix_gdbagent.symbols.symtab import SymbolHit

ALTERNATE = 1 << 23
FUNCTIONS = {
    0x8000_0000: "<u64 as core::fmt::LowerHex>::fmt",
    0x8000_0100: "core::fmt::num::imp::<impl core::fmt::Display for u32>::fmt",
    0x8000_0200: "<&str as core::fmt::Display>::fmt",
    0x8000_0300: "<alloc::string::String as core::fmt::Display>::fmt",
    0x8000_0400: "<i32 as core::fmt::Display>::fmt",
    0x8000_0500: "<kernel::Thing as core::fmt::Debug>::fmt",
    0x8000_0600: "<&u64 as core::fmt::Debug>::fmt",
    0x8000_0700: "<bool as core::fmt::Display>::fmt",
}
BY_NAME = {name: at for at, name in FUNCTIONS.items()}


@dataclass
class Memory:
    """A little memory; what is put there gets the next address."""

    data: bytearray = field(default_factory=bytearray)
    base: int = 0x1000

    def put(self, raw: bytes) -> int:
        self.data += b"\0" * (-len(self.data) % 8)
        at = self.base + len(self.data)
        self.data += raw
        return at

    def words(self, *values: int) -> int:
        return self.put(struct.pack(f"<{len(values)}Q", *values))

    def read(self, va: int, length: int) -> bytes:
        start = va - self.base
        if start < 0 or start + length > len(self.data) + 0x100:
            raise ReadError(f"{va:#x} is not mapped")
        return bytes(self.data[start : start + length]).ljust(length, b"\0")

    def argument(self, name: str, value: int) -> tuple[int, int]:
        return value, BY_NAME[name]

    def info(self, arguments: int) -> int:
        return self.words(0x10, arguments, 0, 0)


class Image:
    """The kernel's symbols, as far as formatting asks them; its ELF has no DWARF."""

    has_dwarf = False

    @property
    def image(self) -> Image:
        return self

    def symbol_at(self, va: int) -> SymbolHit | None:
        name = FUNCTIONS.get(va)
        return None if name is None else SymbolHit(name, 0, 16, va)

    def holds(self, va: int) -> bool:
        return va in FUNCTIONS


def said(memory: Memory, arguments: int) -> str | None:
    return panic_message(memory.info(arguments), memory.read, Image())  # type: ignore[arg-type]


def template(*parts: str | int | None) -> bytes:
    """Literal pieces; a number for a placeholder with those flags, None for a plain one."""
    out = b""
    for part in parts:
        if isinstance(part, str):
            raw = part.encode()
            out += (
                bytes([len(raw)]) + raw
                if len(raw) < 128
                else b"\x80" + struct.pack("<H", len(raw)) + raw
            )
        elif part is None:
            out += b"\xc0"
        else:
            out += b"\xc1" + struct.pack("<I", part)
    return out + b"\0"


def test_a_literal() -> None:
    memory = Memory()
    text = b"General Protection Fault"
    assert said(memory, memory.words(memory.put(text), len(text) << 1 | 1)) == text.decode()


def test_placeholders_of_the_new_form() -> None:
    memory = Memory()
    numbers = [memory.words(n) for n in (0x4444_4444_0000, 0x124000)]
    name = memory.put(b"idle")
    values = [
        memory.argument("<u64 as core::fmt::LowerHex>::fmt", numbers[0]),
        memory.argument("<u64 as core::fmt::LowerHex>::fmt", numbers[1]),
        memory.argument("<&str as core::fmt::Display>::fmt", memory.words(name, 4)),
    ]
    arguments = memory.put(b"".join(struct.pack("<QQ", *pair) for pair in values))
    parts = memory.put(template("Page ", ALTERNATE, " already mapped to ", ALTERNATE, " by ", None))
    assert said(memory, memory.words(parts, arguments)) == (
        "Page 0x444444440000 already mapped to 0x124000 by idle"
    )


def test_every_kind_of_value() -> None:
    memory = Memory()
    signed = memory.put(struct.pack("<i", -11))
    pointer = memory.words(memory.words(77))
    text = memory.words(16, memory.put(b"heap"), 4)
    cases = [
        ("core::fmt::num::imp::<impl core::fmt::Display for u32>::fmt", memory.words(42), "42"),
        ("<i32 as core::fmt::Display>::fmt", signed, "-11"),
        ("<&u64 as core::fmt::Debug>::fmt", pointer, "77"),
        ("<alloc::string::String as core::fmt::Display>::fmt", text, "heap"),
        ("<bool as core::fmt::Display>::fmt", memory.put(b"\1"), "true"),
        ("<kernel::Thing as core::fmt::Debug>::fmt", memory.words(5), "<kernel::Thing>"),
    ]
    for name, value, shown in cases:
        arguments = memory.words(*memory.argument(name, value))
        parts = memory.put(template("value: ", None))
        assert said(memory, memory.words(parts, arguments)) == f"value: {shown}"


def test_the_older_form() -> None:
    memory = Memory()
    pieces = [(memory.put(t), len(t)) for t in (b"frame ", b" of ", b" is gone")]
    values = [
        memory.argument("<u64 as core::fmt::LowerHex>::fmt", memory.words(0x5000)),
        memory.argument(
            "core::fmt::num::imp::<impl core::fmt::Display for u32>::fmt", memory.words(7)
        ),
    ]
    at = memory.put(b"".join(struct.pack("<QQ", *pair) for pair in pieces))
    arguments = memory.put(b"".join(struct.pack("<QQ", *pair) for pair in values))
    assert said(memory, memory.words(at, 3, arguments, 2, 0, 0)) == "frame 0x5000 of 7 is gone"


def test_long_literals_and_chosen_arguments() -> None:
    memory = Memory()
    long = "x" * 300
    parts = memory.put(template(long)[:-1] + b"\xc8" + struct.pack("<H", 1) + b"\0")
    values = [
        memory.argument("<kernel::Thing as core::fmt::Debug>::fmt", 0),
        memory.argument("<i32 as core::fmt::Display>::fmt", memory.put(struct.pack("<i", 3))),
    ]
    arguments = memory.put(b"".join(struct.pack("<QQ", *pair) for pair in values))
    assert said(memory, memory.words(parts, arguments)) == f"{long}3"


@pytest.mark.parametrize("raw", [bytes(64), b"\xff" * 64, bytes(range(1, 65))])
def test_what_is_no_message(raw: bytes) -> None:
    memory = Memory()
    assert said(memory, memory.put(raw)) is None


def test_memory_that_is_not_there() -> None:
    assert panic_message(0x99_0000, Memory().read, None) is None


def test_without_symbols_the_text_stays() -> None:
    memory = Memory()
    arguments = memory.words(memory.words(1), 0x8000_0000)
    at = memory.words(memory.put(template("cpu ", None, " is lost")), arguments)
    assert panic_message(memory.info(at), memory.read, None) == f"cpu {UNKNOWN} is lost"


def test_an_argument_that_cannot_be_formatted_is_named_by_its_type() -> None:
    """Never ``{..}``, which nobody wrote and nobody knows."""
    memory = Memory()
    arguments = memory.words(*memory.argument("<kernel::Thing as core::fmt::Debug>::fmt", 0x10))
    at = memory.words(memory.put(template("unwrap on ", None, "!")), arguments)
    assert said(memory, at) == "unwrap on <kernel::Thing>!"


def test_a_message_that_is_one_argument() -> None:
    """`Option::expect`: format_args!("{}", message)."""
    memory = Memory()
    text = memory.put(b"no frame")
    arguments = memory.words(
        *memory.argument("<&str as core::fmt::Display>::fmt", memory.words(text, 8))
    )
    assert said(memory, memory.words(memory.put(template(None)), arguments)) == "no frame"


def test_a_location_is_no_message() -> None:
    memory = Memory()
    path = memory.put(b"src/memory/frame_allocator.rs\0")
    assert said(memory, memory.words(path, 29, 0x1C_0000_00CF)) is None
