"""DWARF numbers: tags, attributes and forms that we read, and how long a form is.

Source: DWARF 4 section 7.5.4 and figure 20, DWARF 5 section 7.5.6 and table 7.6.
"""

from __future__ import annotations

import struct
from typing import Final

# Tags
T_ARRAY: Final = 0x01
T_ENUMERATION: Final = 0x04
T_LEXICAL_BLOCK: Final = 0x0B
T_MEMBER: Final = 0x0D
T_POINTER: Final = 0x0F
T_REFERENCE: Final = 0x10
T_COMPILE_UNIT: Final = 0x11
T_STRUCT: Final = 0x13
T_SUBROUTINE_TYPE: Final = 0x15
T_TYPEDEF: Final = 0x16
T_UNION: Final = 0x17
T_VARIANT: Final = 0x19
T_INLINED: Final = 0x1D
T_SUBRANGE: Final = 0x21
T_BASE: Final = 0x24
T_CONST: Final = 0x26
T_ENUMERATOR: Final = 0x28
T_SUBPROGRAM: Final = 0x2E
T_TEMPLATE_TYPE: Final = 0x2F
T_VARIANT_PART: Final = 0x33
T_VARIABLE: Final = 0x34
T_VOLATILE: Final = 0x35
T_NAMESPACE: Final = 0x39

# Attributes
A_LOCATION: Final = 0x02
A_NAME: Final = 0x03
A_BYTE_SIZE: Final = 0x0B
A_STMT_LIST: Final = 0x10
A_LOW_PC: Final = 0x11
A_HIGH_PC: Final = 0x12
A_DISCR: Final = 0x15
A_DISCR_VALUE: Final = 0x16
A_COMP_DIR: Final = 0x1B
A_CONST_VALUE: Final = 0x1C
A_UPPER_BOUND: Final = 0x2F
A_ABSTRACT_ORIGIN: Final = 0x31
A_COUNT: Final = 0x37
A_DATA_MEMBER_LOCATION: Final = 0x38
A_DECLARATION: Final = 0x3C
A_DISCR_LIST: Final = 0x3D
A_ENCODING: Final = 0x3E
A_SPECIFICATION: Final = 0x47
A_TYPE: Final = 0x49
A_CONTAINING_TYPE: Final = 0x1D
A_ENTRY_PC: Final = 0x52
A_RANGES: Final = 0x55
A_CALL_FILE: Final = 0x58
A_CALL_LINE: Final = 0x59
A_LINKAGE_NAME: Final = 0x6E
A_ALIGNMENT: Final = 0x88
A_STR_OFFSETS_BASE: Final = 0x72
A_DWO_NAME: Final = 0x76
A_GNU_DWO_NAME: Final = 0x2130
A_ADDR_BASE: Final = 0x73
A_RNGLISTS_BASE: Final = 0x74

# Base type encodings (DWARF 5 section 7.8)
ATE_BOOLEAN: Final = 0x02
ATE_FLOAT: Final = 0x04
ATE_SIGNED: Final = 0x05
ATE_SIGNED_CHAR: Final = 0x06
ATE_UNSIGNED: Final = 0x07
ATE_UNSIGNED_CHAR: Final = 0x08
ATE_UTF: Final = 0x10

# Forms
F_ADDR: Final = 0x01
F_BLOCK2: Final = 0x03
F_BLOCK4: Final = 0x04
F_DATA2: Final = 0x05
F_DATA4: Final = 0x06
F_DATA8: Final = 0x07
F_STRING: Final = 0x08
F_BLOCK: Final = 0x09
F_BLOCK1: Final = 0x0A
F_DATA1: Final = 0x0B
F_FLAG: Final = 0x0C
F_SDATA: Final = 0x0D
F_STRP: Final = 0x0E
F_UDATA: Final = 0x0F
F_REF_ADDR: Final = 0x10
F_REF1: Final = 0x11
F_REF2: Final = 0x12
F_REF4: Final = 0x13
F_REF8: Final = 0x14
F_REF_UDATA: Final = 0x15
F_INDIRECT: Final = 0x16
F_SEC_OFFSET: Final = 0x17
F_EXPRLOC: Final = 0x18
F_FLAG_PRESENT: Final = 0x19
F_STRX: Final = 0x1A
F_ADDRX: Final = 0x1B
F_REF_SUP4: Final = 0x1C
F_STRP_SUP: Final = 0x1D
F_DATA16: Final = 0x1E
F_LINE_STRP: Final = 0x1F
F_REF_SIG8: Final = 0x20
F_IMPLICIT_CONST: Final = 0x21
F_LOCLISTX: Final = 0x22
F_RNGLISTX: Final = 0x23
F_REF_SUP8: Final = 0x24
F_STRX1: Final = 0x25
F_STRX2: Final = 0x26
F_STRX3: Final = 0x27
F_STRX4: Final = 0x28
F_ADDRX1: Final = 0x29
F_ADDRX2: Final = 0x2A
F_ADDRX3: Final = 0x2B
F_ADDRX4: Final = 0x2C

_FIXED: Final = {
    F_ADDR: 8, F_DATA2: 2, F_DATA4: 4, F_DATA8: 8, F_DATA1: 1, F_FLAG: 1, F_REF1: 1, F_REF2: 2,
    F_REF4: 4, F_REF8: 8, F_FLAG_PRESENT: 0, F_REF_SUP4: 4, F_DATA16: 16, F_REF_SIG8: 8,
    F_IMPLICIT_CONST: 0, F_REF_SUP8: 8, F_STRX1: 1, F_STRX2: 2, F_STRX3: 3, F_STRX4: 4,
    F_ADDRX1: 1, F_ADDRX2: 2, F_ADDRX3: 3, F_ADDRX4: 4,
}  # fmt: skip
_OFFSETS: Final = frozenset({F_STRP, F_REF_ADDR, F_SEC_OFFSET, F_STRP_SUP, F_LINE_STRP})
_ULEBS: Final = frozenset({F_SDATA, F_UDATA, F_REF_UDATA, F_STRX, F_ADDRX, F_LOCLISTX, F_RNGLISTX})
_BLOCKS: Final = {F_BLOCK1: 1, F_BLOCK2: 2, F_BLOCK4: 4}
FORMS: Final = frozenset(_FIXED) | _OFFSETS | _ULEBS | frozenset(_BLOCKS) | {
    F_STRING, F_BLOCK, F_EXPRLOC, F_INDIRECT,
}  # fmt: skip


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
    if form == F_STRING:
        return string_end(data, at) + 1
    if form in (F_EXPRLOC, F_BLOCK):
        size, at = uleb(data, at)
        return at + size
    if form in _BLOCKS:
        return at + _BLOCKS[form] + unsigned(data, at, _BLOCKS[form])
    if form == F_INDIRECT:
        form, at = uleb(data, at)
        if form == F_INDIRECT:
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
    return form in _BLOCKS or form in (F_BLOCK, F_EXPRLOC)


U32 = struct.Struct("<I").unpack_from
U64 = struct.Struct("<Q").unpack_from
U16 = struct.Struct("<H").unpack_from
