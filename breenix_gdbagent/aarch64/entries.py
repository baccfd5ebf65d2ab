"""What an exception's entry in assembly keeps, read in its instructions: where on the stack the
interrupted registers lie. And whether an instruction calls.

Source: Arm ARM, C6.2 (STP, STR, MRS, BL, BLR).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from breenix_gdbagent.arch.cpu import Instruction

ReadCode = Callable[[int, int], bytes | None]
MOST = 96
"""Instructions looked at from an entry's first on."""
_STATE = {"elr_el1": "pc", "spsr_el1": "cpsr", "sp_el0": "sp_el0"}
_ALIAS = {"lr": "x30", "fp": "x29"}


def is_call(word: int) -> bool:
    """Whether an instruction is BL, BLR or one of its forms with a pointer's authentication."""
    return word >> 26 == 0b100101 or word & 0xFEFF_F800 == 0xD63F_0800 or (
        word & 0xFFFF_FC1F == 0xD63F_0000
    )


def without_code(pointer: int) -> int:
    """A kernel's address without what FEAT_PAuth put above it (bit 55 tells the half)."""
    return pointer | 0xFFFF << 48 if pointer >> 55 & 1 else pointer


class Kept(NamedTuple):
    """`slots`: register -> its offset from the stack pointer behind the entry; ``pc`` and ``cpsr``
    are ELR_EL1 and SPSR_EL1. `size`: bytes that the entry took from the stack, None: not told."""

    slots: dict[str, int]
    size: int | None


class EntryCode:
    """The first instructions of an entry, followed in their order."""

    def __init__(self, code: list[Instruction]) -> None:
        self.code = code

    @cached_property
    def kept(self) -> Kept | None:
        """What it stores on the stack, None where ELR_EL1 and SPSR_EL1 are not among it."""
        slots: dict[str, int] = {}
        holds: dict[str, str] = {}
        size: int | None = None
        for one in self.code:
            words = one.operands.replace("[", "").replace("]", "").split(", ")
            words = [_ALIAS.get(word, word) for word in words]
            if one.mnemonic == "bl":
                break
            if one.mnemonic == "mrs" and words[1] in _STATE:
                holds[words[0]] = _STATE[words[1]]
            elif one.mnemonic == "sub" and words[:2] == ["sp", "sp"]:
                size = (size or 0) + _number(words[2])
            elif one.mnemonic == "add" and words[1] == "sp" and words[0] != "sp" and size is None:
                size = _number(words[2])
            elif one.mnemonic in ("stp", "str") and "sp" in words[1:] and "!" not in one.operands:
                count = 2 if one.mnemonic == "stp" else 1
                at = _number(words[count + 1]) if len(words) > count + 1 else 0
                for number, name in enumerate(words[:count]):
                    slots.setdefault(holds.get(name, name), at + 8 * number)
        if not {"pc", "cpsr"} <= slots.keys():
            return None
        return Kept({n: at for n, at in slots.items() if n != "xzr"}, size)


def _number(text: str) -> int:
    try:
        return int(text.lstrip("#"), 0)
    except ValueError:
        return 0


def entry_at(address: int, read: ReadCode) -> Kept | None:
    """What the entry whose code begins at `address` keeps; None where it is none."""
    from breenix_gdbagent.aarch64.disassembler import disassemble

    code = read(address, MOST * 4)
    return None if code is None else EntryCode(list(disassemble(code, address, MOST))).kept
