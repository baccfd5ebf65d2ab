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

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError, ReadError, SymbolNotFound
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.operands import LOWER, REGISTERS, number, register, truth
from breenix_gdbagent.kernel.location import address_in

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.operands import Evaluate, Known
    from breenix_gdbagent.symbols import LoadedImage

_NAME = re.compile(r"[\w:<>{}]+\Z")


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
            return str(value) if -(1 << 63) <= value < 1 << 16 else hex64(value)
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
