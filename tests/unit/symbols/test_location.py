"""Locations of statics: plain addresses, and values that the compiler took apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.location import Place, covered, evaluate, linked_address
from tests.writers.dwarf import Die, Unit, Writer, sleb, uleb
from tests.writers.elf import Elf, text

BIAS = 0x8000000000


def addr(link: int) -> bytes:
    return b"\x03" + link.to_bytes(8, "little")


def piece(size: int) -> bytes:
    return b"\x93" + uleb(size)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    static = Die(0x34, [(0x03, 0x08, "S"), (0x11, 0x1B, 0x2000)])
    root = Die(0x11, [(0x03, 0x08, "u")], [static])
    path = tmp_path / "kernel"
    path.write_bytes(Elf([text(bytes(64)), *Writer().sections(Unit(root, 5))]).build())
    return Image.open(path)


def run(image: Image, code: bytes, memory: dict[int, bytes] | None = None) -> Place:
    def read(va: int, length: int) -> bytes:
        for start, data in (memory or {}).items():
            if start <= va and va + length <= start + len(data):
                return data[va - start :][:length]
        raise ReadError(f"nothing at {va:#x}")

    dwarf = image.debug.dwarf
    return evaluate(dwarf, next(dwarf.units()), code, BIAS, read)


def test_plain_addresses(image: Image) -> None:
    dwarf = image.debug.dwarf
    unit = next(dwarf.units())
    assert linked_address(dwarf, unit, addr(0x2000)) == 0x2000
    assert linked_address(dwarf, unit, b"\xa1\x00") == 0x2000
    assert linked_address(dwarf, unit, addr(0x2000) + piece(8)) is None
    assert run(image, addr(0x2000)).address == BIAS + 0x2000
    assert run(image, addr(0x2000) + b"\x23\x10").address == BIAS + 0x2010


def test_a_split_option(image: Image) -> None:
    """As rustc splits `static mut PHYS_MEM_OFFSET: Option<VirtAddr>` of Breenix's kernel:

    `addr; deref_size 1; lit1; and; lit0; ne; stack_value; piece 8; addr; piece 8`.
    """
    code = addr(0x2000) + b"\x94\x01\x31\x1a\x30\x2e\x9f" + piece(8) + addr(0x2008) + piece(8)
    memory = {BIAS + 0x2000: b"\x01", BIAS + 0x2008: (0x28000000000).to_bytes(8, "little")}
    place = run(image, code, memory)
    assert place.address is None and not place.missing
    assert place.data == (1).to_bytes(8, "little") + (0x28000000000).to_bytes(8, "little")
    with pytest.raises(ReadError):
        run(image, code, {})


def test_pieces_that_were_dropped(image: Image) -> None:
    place = run(image, piece(4) + b"\x35\x9f" + piece(2) + b"\x9e\x02ab" + piece(4))
    assert place.data == bytes(4) + b"\x05\x00" + b"ab\0\0"
    assert place.missing == ((0, 4),)
    covered(place, 4, 10)
    with pytest.raises(ReadError, match="bytes 0 to 4 of the value were optimised out"):
        covered(place, 3, 5)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (b"\x08\xff", 0xFF),
        (b"\x09\xff", (1 << 64) - 1),
        (b"\x0b\xfe\xff", (1 << 64) - 2),
        (b"\x10" + uleb(300), 300),
        (b"\x11" + sleb(-300), (1 << 64) - 300),
        (b"\x33\x32\x1c", 1),
        (b"\x33\x32\x16\x1c", (1 << 64) - 1),
        (b"\x33\x12\x22", 6),
        (b"\x38\x32\x25", 2),
        (b"\x32\x1f\x19", 2),
        (b"\x32\x20", (1 << 64) - 3),
        (b"\x33\x32\x2b", 1),
    ],
)
def test_arithmetic(image: Image, code: bytes, value: int) -> None:
    assert run(image, code + b"\x9f").data == value.to_bytes(8, "little")


@pytest.mark.parametrize(
    "code",
    [b"", b"\x22", b"\x03\x00", b"\x91\x10", b"\x94\x00", b"\xff", b"\x12" * 9, b"\x30" * 300,
     piece(1 << 40), b"\x30\x94\x21", b"\x9e\xff\xff\xff\xff\x7f"],
)  # fmt: skip
def test_damage(image: Image, code: bytes) -> None:
    if code.startswith(b"\x9e"):
        assert run(image, code).data == b""
        return
    with pytest.raises(InputError, match=r"section \.debug_info"):
        run(image, code)
