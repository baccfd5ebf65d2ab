"""What the operators of an expression work on: values of the kernel as numbers, text and truth."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

from breenix_gdbagent.architectures import ARCHITECTURES
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.known import Known

    Evaluate = Callable[[Evaluation], Known]

_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
REGISTERS = {
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
    "r13", "r14", "r15", "rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base",
    "gs_base", "k_gs_base", "cr0", "cr2", "cr3", "cr4", "cr8", "efer",
}  # fmt: skip
SYSTEM = frozenset(name for arch in ARCHITECTURES for name in arch.system_registers)
"""Names that no variable has: with or without a ``$``."""
MARKED = frozenset(
    name for arch in ARCHITECTURES for name in (*arch.names.general, arch.names.flags)
) - REGISTERS
"""Names that a variable may have too: with a ``$`` before."""
GDB_NAMES = ("pc", "sp", "fp")
"""As gdb has them for every architecture, with a ``$`` before."""
PARTS: dict[str, tuple[str, int, int]] = {
    **{f"{n}l": (f"r{n}x", 0, 8) for n in "abcd"},
    **{f"{n}h": (f"r{n}x", 8, 8) for n in "abcd"},
    **{n: (f"r{n}", 0, 16) for n in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")},
    **{f"{n}l": (f"r{n}", 0, 8) for n in ("si", "di", "bp", "sp")},
    **{f"r{n}{s}": (f"r{n}", 0, b) for n in range(8, 16) for s, b in (("b", 8), ("w", 16))},
}
"""(whole register, first bit, bits), with a ``$`` before."""
LOWER = {f"e{n}": f"r{n}" for n in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")} | {
    f"r{n}d": f"r{n}" for n in range(8, 16)
}


def plain(value: Known) -> int | float | str | bool | None:
    """A value of the kernel as Python has it. Raises `InputError` for a whole struct."""
    from breenix_gdbagent.symbols.tree import Pointer, Unknown
    from breenix_gdbagent.symbols.tree_plain import to_python
    from breenix_gdbagent.symbols.values import Value

    if isinstance(value, tuple):
        raise InputError(f"{len(value)} values are neither a number nor text", fix="name one: [0]")
    if not isinstance(value, Value):
        return value
    found = to_python(value)
    if isinstance(found, dict) and set(found) == {"lock", "data"}:
        found = found["data"]
    if isinstance(found, Pointer):
        return found.address
    if isinstance(found, Unknown):
        raise ReadError(found.reason)
    if isinstance(found, dict) and len(found) == 1:
        return str(next(iter(found)))  # the name of an enum's variant that carries data
    if isinstance(found, dict | list | tuple) or not isinstance(found, int | float | str | None):
        raise InputError(f"{value.type.name} is neither a number nor text", fix="name a field")
    return found


def number(value: Known) -> int:
    """As a number. Raises `InputError` for text and None."""
    found = plain(value)
    if isinstance(found, bool | int):
        return int(found)
    raise InputError(f"{found!r} is no number")


def truth(value: Known) -> bool:
    """None is false, and so are 0 and empty text."""
    return bool(plain(value))


def compare(sign: str, left: Known, right: Known) -> bool:
    """One of ``== != < <= > >=``; no order holds of None."""
    a, b = plain(left), plain(right)
    if sign in ("==", "!="):
        return (a == b) == (sign == "==")
    if a is None or b is None:
        return False
    return _COMPARISONS[sign](number(a), number(b))


def register(evaluation: Evaluation, name: str) -> int:
    """A register of the evaluation's CPU, in its frame. Raises `ReadError` where it is not known.
    """
    value = evaluation.register(LOWER.get(name, name))
    return value & 0xFFFFFFFF if name in LOWER else value


def is_register(name: str) -> bool:
    """Whether a word is one, a ``$`` before or not: what gdb alone calls so needs it."""
    bare = name.removeprefix("$")
    return bare in REGISTERS or bare in LOWER or bare in SYSTEM or (
        bare != name and (bare in GDB_NAMES or bare in PARTS or bare in MARKED)
    )


def register_named(evaluation: Evaluation, name: str) -> int:
    """`register`, by any name that `is_register` knows."""
    bare = name.removeprefix("$")
    if bare in REGISTERS or bare in LOWER or bare in SYSTEM or bare in MARKED:
        return register(evaluation, bare)
    if bare in PARTS and bare not in GDB_NAMES:
        whole, first, bits = PARTS[bare]
        return register(evaluation, whole) >> first & (1 << bits) - 1
    names = evaluation.cpu.arch.names
    return register(evaluation, {"pc": names.pc, "sp": names.sp, "fp": names.frame}[bare])
