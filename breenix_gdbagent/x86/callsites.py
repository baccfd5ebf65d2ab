"""Whether bytes are a call, so that the address behind them can be a return address."""

from __future__ import annotations

LONGEST_CALL = 8
_REX = range(0x40, 0x50)


def is_call(code: bytes) -> bool:
    """Whether all of `code` is one call instruction (SDM volume 2A, CALL)."""
    if len(code) == 5 and code[0] == 0xE8:
        return True
    if code[0] in _REX and len(code) > 2:
        code = code[1:]
    if code[0] != 0xFF or len(code) < 2:
        return False
    mode, operation, base = code[1] >> 6, code[1] >> 3 & 7, code[1] & 7
    if operation != 2:
        return False
    length = 2
    if base == 4 and mode != 3:
        base = code[2] & 7 if len(code) > 2 else 0  # that of the SIB byte
        length = 3
    length += {0: 4 if base == 5 else 0, 1: 1, 2: 4, 3: 0}[mode]
    return len(code) == length


def behind_a_call(before: bytes) -> bool:
    """Whether the last of `before`, the bytes up to an address, are a call."""
    sizes = range(2, min(len(before), LONGEST_CALL) + 1)
    return any(is_call(before[-size:]) for size in sizes)
