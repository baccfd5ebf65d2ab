"""DWARF forms: how long a value is, and how its numbers are read.

Source: DWARF 4 section 7.5.4 and figure 20, DWARF 5 section 7.5.6 and table 7.6.
"""

from __future__ import annotations

import struct
from typing import Final

from breenix_gdbagent.symbols import dwarf_names as dw

_FIXED: Final = {
    dw.DW_FORM_addr: 8,
    dw.DW_FORM_data2: 2,
    dw.DW_FORM_data4: 4,
    dw.DW_FORM_data8: 8,
    dw.DW_FORM_data1: 1,
    dw.DW_FORM_flag: 1,
    dw.DW_FORM_ref1: 1,
    dw.DW_FORM_ref2: 2,
    dw.DW_FORM_ref4: 4,
    dw.DW_FORM_ref8: 8,
    dw.DW_FORM_flag_present: 0,
    dw.DW_FORM_ref_sup4: 4,
    dw.DW_FORM_data16: 16,
    dw.DW_FORM_ref_sig8: 8,
    dw.DW_FORM_implicit_const: 0,
    dw.DW_FORM_ref_sup8: 8,
    dw.DW_FORM_strx1: 1,
    dw.DW_FORM_strx2: 2,
    dw.DW_FORM_strx3: 3,
    dw.DW_FORM_strx4: 4,
    dw.DW_FORM_addrx1: 1,
    dw.DW_FORM_addrx2: 2,
    dw.DW_FORM_addrx3: 3,
    dw.DW_FORM_addrx4: 4,
}
_OFFSETS: Final = frozenset(
    {
        dw.DW_FORM_strp,
        dw.DW_FORM_ref_addr,
        dw.DW_FORM_sec_offset,
        dw.DW_FORM_strp_sup,
        dw.DW_FORM_line_strp,
    }
)
_ULEBS: Final = frozenset(
    {
        dw.DW_FORM_sdata,
        dw.DW_FORM_udata,
        dw.DW_FORM_ref_udata,
        dw.DW_FORM_strx,
        dw.DW_FORM_addrx,
        dw.DW_FORM_loclistx,
        dw.DW_FORM_rnglistx,
    }
)
_BLOCKS: Final = {dw.DW_FORM_block1: 1, dw.DW_FORM_block2: 2, dw.DW_FORM_block4: 4}
FORMS: Final = (
    frozenset(_FIXED)
    | _OFFSETS
    | _ULEBS
    | frozenset(_BLOCKS)
    | {
        dw.DW_FORM_string,
        dw.DW_FORM_block,
        dw.DW_FORM_exprloc,
        dw.DW_FORM_indirect,
    }
)


class BadDwarf(Exception):
    """What was read is not DWARF as we know it; turned into an `InputError` with the section."""


def fixed_size(form: int, offset_size: int) -> int | None:
    """Bytes of a form whose length does not depend on the data; None for the others."""
    return offset_size if form in _OFFSETS else _FIXED.get(form)


def uleb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and the offset behind it (DWARF 5 section 7.6)."""
    byte = data[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value = byte & 0x7F
    shift = 7
    while byte >= 0x80:
        # 19 bytes hold 128 bits: more is damage, and must not grow without bound.
        if shift > 126:
            raise BadDwarf("has a number of more than 128 bits")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, at


def sleb(data: bytes, at: int) -> tuple[int, int]:
    """A signed LEB128 number and the offset behind it."""
    begin = at
    value, at = uleb(data, at)
    if data[at - 1] & 0x40:
        value -= 1 << 7 * (at - begin)
    return value, at


def unsigned(data: bytes, at: int, size: int) -> int:
    """A little-endian number of `size` bytes; IndexError when it is cut off."""
    raw = data[at : at + size]
    if len(raw) != size:
        raise IndexError
    return int.from_bytes(raw, "little")


def skip_form(data: bytes, at: int, form: int, offset_size: int) -> int:
    """The offset behind an attribute value that starts at `at`."""
    size = fixed_size(form, offset_size)
    if size is not None:
        return at + size
    if form in _ULEBS:
        while data[at] >= 0x80:
            at += 1
        return at + 1
    if form == dw.DW_FORM_string:
        return string_end(data, at) + 1
    if form in (dw.DW_FORM_exprloc, dw.DW_FORM_block):
        size, at = uleb(data, at)
        return at + size
    if form in _BLOCKS:
        return at + _BLOCKS[form] + unsigned(data, at, _BLOCKS[form])
    if form == dw.DW_FORM_indirect:
        form, at = uleb(data, at)
        if form == dw.DW_FORM_indirect:
            raise BadDwarf("has a form that is indirect twice")
        return skip_form(data, at, form, offset_size)
    raise BadDwarf(f"uses an unknown form {form:#x}")


def string_end(data: bytes, at: int) -> int:
    """Offset of the NUL that ends the string at `at`."""
    end = data.find(b"\0", at)
    if end < 0 or at > len(data):
        raise IndexError
    return end


def read_block(data: bytes, at: int, form: int) -> bytes:
    """The bytes of a block or expression form."""
    if form in _BLOCKS:
        size = unsigned(data, at, _BLOCKS[form])
        at += _BLOCKS[form]
    else:
        size, at = uleb(data, at)
    block = data[at : at + size]
    if len(block) != size:
        raise IndexError
    return block


def is_block(form: int) -> bool:
    return form in _BLOCKS or form in (dw.DW_FORM_block, dw.DW_FORM_exprloc)


U32 = struct.Struct("<I").unpack_from
U64 = struct.Struct("<Q").unpack_from
U16 = struct.Struct("<H").unpack_from
