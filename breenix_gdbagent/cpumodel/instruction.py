"""One instruction as the analyzers see it: its operands, and every access it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["read", "write", "update", "fetch"]
_SUB = {  # names that capstone has for parts of the eight old registers
    **{f"e{r}": (f"r{r}", 4, 0) for r in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")},
    **{r: (f"r{r}", 2, 0) for r in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")},
    **{f"{r}l": (f"r{r}", 1, 0) for r in ("si", "di", "bp", "sp")},
    **{f"{r}l": (f"r{r}x", 1, 0) for r in "abcd"},
    **{f"{r}h": (f"r{r}x", 1, 8) for r in "abcd"},
    "eip": ("rip", 4, 0),
}


@dataclass(frozen=True, slots=True)
class Access:
    """One access of memory: `size` bytes from linear `address` (None: a register is not known).

    ``update`` reads and writes the same place (``add [m], r``): hardware may fault it as either.
    `stack` accesses go through SS, where a non-canonical address is #SS and not #GP.
    """

    kind: Kind
    address: int | None
    size: int
    stack: bool
    what: str


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand. `value` is the register's or immediate's value, of memory the linear address;
    None where it is not known. `name` is the register by the manual's name, else empty."""

    kind: Literal["register", "immediate", "memory"]
    name: str
    size: int
    value: int | None


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction at `address`; `name` is the mnemonic without prefixes.

    `accesses` are in the order the CPU makes them, the fetch of the instruction itself left out.
    `aligned` is the alignment in bytes that its memory operand must have, 1 for any. `unit` says
    whose registers it uses: ``x87``, ``sse``, ``avx``, or nobody's.
    """

    address: int
    size: int
    code: bytes
    name: str
    text: str
    operands: tuple[Operand, ...]
    accesses: tuple[Access, ...]
    aligned: int
    unit: Literal["", "x87", "sse", "avx"] = ""


def register_value(name: str, known: Mapping[str, int]) -> int | None:
    """The value of a register or a part of one, by capstone's name; None when not known."""
    if name in known:
        return known[name]
    whole, size, shift = name, 8, 0
    if name in _SUB:
        whole, size, shift = _SUB[name]
    elif name[:1] == "r" and name[-1:] in "dwb" and name[1:-1].isdigit():
        whole, size = name[:-1], {"d": 4, "w": 2, "b": 1}[name[-1]]
    value = known.get(whole)
    return None if value is None else value >> shift & ((1 << 8 * size) - 1)
