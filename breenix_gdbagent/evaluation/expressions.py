"""The small language of conditions and checkpoints.

::

    rdi == 3 and SCHEDULER.current_thread != 2
    process.name == "init" or u64[rsp + 8] & 0xfff == 0
    rip == &syscall_entry
    kernel::task::thread::Thread@rdi.state == "Ready"

Names, in this order: registers by gdb's names (a ``$`` before is allowed, ``eax`` is the lower half
of ``rax``), ``cpu``, ``ring``, ``tid``, ``pid``, ``thread``, ``process``, else a static of the
kernel by its path. ``.field``, ``.0`` and ``[index]`` follow; ``u8[..]`` to ``u64[..]`` read memory
under the CPU's CR3; ``&name`` is an address. Operators are Rust's, with ``and or not`` beside
``&& || !``. What does not exist (no thread yet, an `Option` that is None) is None: it equals only
None, and no order holds of it. An enum is its variant's name as text.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError, ReadError, SymbolNotFound
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.kernel.location import address_in

if TYPE_CHECKING:
    from breenix_gdbagent.symbols import LoadedImage
    from breenix_gdbagent.symbols.values import Value

    Known = int | float | str | bool | None | Value
    Evaluate = Callable[[Evaluation], Known]

_NAME = re.compile(r"[\w:<>{}]+\Z")
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
REGISTERS = {
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
    "r13", "r14", "r15", "rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base",
    "gs_base", "k_gs_base", "cr0", "cr2", "cr3", "cr4", "cr8", "efer",
}  # fmt: skip
LOWER = {f"e{n}": f"r{n}" for n in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")} | {
    f"r{n}d": f"r{n}" for n in range(8, 16)
}


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression as it was written, ready to be evaluated many times.

    `statics` are the names of statics in it, `typed` says whether it needs the kernel's types.
    """

    text: str
    evaluate: Evaluate
    statics: tuple[str, ...]
    typed: bool

    def value(self, evaluation: Evaluation) -> Known:
        """Raises `ReadError` for what cannot be read, `InputError` for what makes no sense."""
        return self.evaluate(evaluation)

    def holds(self, evaluation: Evaluation) -> bool:
        """Its truth: a number other than 0, true. Raises as `value` does."""
        return truth(self.evaluate(evaluation))

    def shown(self, evaluation: Evaluation) -> str:
        """One line of text. What cannot be had says why, in its place."""
        from breenix_gdbagent.symbols.tree_text import one_line
        from breenix_gdbagent.symbols.values import Value

        try:
            value = self.evaluate(evaluation)
            if isinstance(value, Value):
                return one_line(value)
        except (ReadError, InputError) as error:
            return f"<{error.what}>"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            plain = self.text.removeprefix("$")
            if plain in REGISTERS or plain.startswith("&"):
                name = evaluation.kernel.symbol(value) if value > 1 << 16 else None
                return f"{hex64(value)} <{name}>" if name else hex64(value)
            return hex64(value) if value >= 1 << 16 else str(value)
        return f'"{value}"' if isinstance(value, str) else str(value)


def parse(text: str, image: LoadedImage | None = None) -> Expression:
    """Raises `InputError` for what is no expression, with where it stops being one.

    With `image`, names that the kernel does not have are refused at once.
    """
    from breenix_gdbagent.evaluation.grammar import Grammar

    parser = Grammar(text)
    evaluate = parser.whole()
    if image is not None and parser.typed and not image.image.has_dwarf:
        raise InputError(
            f"{text!r} needs the kernel's types, and its ELF has no debug information (DWARF)"
        )
    for name in parser.statics:
        if image is not None:
            image.image.debug.index.statics_named(name)
    return Expression(text.strip(), evaluate, tuple(parser.statics), parser.typed)


def parse_list(text: str, image: LoadedImage | None = None) -> tuple[Expression, ...]:
    """Expressions with commas between them. Raises as `parse`."""
    from breenix_gdbagent.evaluation.grammar import pieces

    return tuple(parse(piece, image) for piece in pieces(text))


def plain(value: Known) -> int | float | str | bool | None:
    """A value of the kernel as Python has it. Raises `InputError` for a whole struct."""
    from breenix_gdbagent.symbols.tree import Pointer, Unknown
    from breenix_gdbagent.symbols.tree_plain import to_python
    from breenix_gdbagent.symbols.values import Value

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
    """A register of the evaluation's CPU. Raises `ReadError` where it is not known."""
    value = evaluation.cpu.get(LOWER.get(name, name))
    if value is None:
        raise ReadError(f"register {name} is not known")
    return value & 0xFFFFFFFF if name in LOWER else value


def address_at(evaluation: Evaluation, text: str) -> int:
    """An address as people name it: a number, a register, a symbol with an offset, or any
    expression. Raises `InputError`, `ReadError`, `SymbolNotFound`."""
    bare = text.strip().removeprefix("$")
    if bare in REGISTERS or bare in LOWER:
        return register(evaluation, bare)
    try:
        return address_in(text, evaluation.kernel.stop)
    except (InputError, SymbolNotFound):
        if _NAME.match(text.strip()):
            raise
    return number(parse(text).value(evaluation)) & (1 << 64) - 1
