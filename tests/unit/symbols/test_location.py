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
        (b"\x33\x32\x14", 3),  # DW_OP_over
        (b"\x33\x32\x31\x15\x02", 3),  # DW_OP_pick
        (b"\x33\x32\x31\x17", 2),  # DW_OP_rot: the second comes to the top
        (b"\x33\x32\x31\x17\x13", 3),  # and the third is the second then
        (b"\x33\x32\x31\x17\x13\x13", 1),  # and the top the third
        (b"\x09\xf9\x32\x1b", (1 << 64) - 3),  # DW_OP_div of -7 by 2: signed, towards zero
        (b"\x37\x32\x1d", 1),  # DW_OP_mod
        (b"\x31\x2f\x01\x00\x32\x96", 1),  # DW_OP_skip over lit2
        (b"\x31\x31\x28\x01\x00\x32", 1),  # DW_OP_bra, taken
        (b"\x31\x30\x28\x01\x00\x32", 2),  # DW_OP_bra, not taken
        (b"\x35\x31\x1c\x12\x28\xfa\xff", 0),  # backwards until the counter is 0
        (b"\x0c\xff\xff\xff\xff", 0xFFFF_FFFF),
        (b"\x0d\xff\xff\xff\xff", (1 << 64) - 1),
        (b"\x0e" + b"\xfe" * 8, 0xFEFE_FEFE_FEFE_FEFE),
        (b"\x31\x08\x40\x24", 0),  # shifted out: DW_OP_shl by 64
        (b"\x09\xfe\x08\x40\x26", (1 << 64) - 1),  # DW_OP_shra by 64
        (b"\x09\xfe\x31\x25", (1 << 63) - 1),  # DW_OP_shr is logical
        (b"\x09\xfe\x31\x2d", 1),  # DW_OP_lt is signed
    ],
)
def test_arithmetic(image: Image, code: bytes, value: int) -> None:
    assert run(image, code + b"\x9f").data == value.to_bytes(8, "little")


@pytest.mark.parametrize(
    "code",
    [b"", b"\x22", b"\x03\x00", b"\x91\x10", b"\x94\x00", b"\xff", b"\x12" * 9, b"\x30" * 300,
     piece(1 << 40), b"\x30\x94\x21", b"\x31\x30\x1b", b"\x31\x30\x1d",
     b"\x2f\xf0\xff", b"\x2f\xfd\xff", b"\x15\x01", b"\x30\x31\x17", b"\x9e\xff\xff\xff\xff\x7f"],
)  # fmt: skip
def test_damage(image: Image, code: bytes) -> None:
    with pytest.raises(InputError, match=r"section \.debug_info"):
        run(image, code)
