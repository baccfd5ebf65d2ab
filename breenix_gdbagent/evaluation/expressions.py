"""The small language of conditions and checkpoints.

::

    rdi == 3 and SCHEDULER.current_thread != 2
    process.name == "init" or u64[rsp + 8] & 0xfff == 0
    rip == &syscall_entry
    kernel::task::thread::Thread@rdi.state == "Ready"
    thread.state == Terminated

Names, in this order: registers by gdb's names (a ``$`` before is allowed, and needed for ``$pc``,
``$sp``, ``$al``; ``eax`` is the lower half of ``rax``), ``cpu``, ``ring``, ``tid``, ``pid``,
``thread``, ``process``, else an argument or local variable of the frame, a static of the kernel by
its path, a function (its address). ``.field``, ``.0``, ``[index]`` and ``[2..5]`` follow; ``*``
follows a pointer (of a plain number it is the 64-bit word there); ``u8[..]`` to ``u64[..]`` read
memory under the CPU's CR3, ``u64[rsp..rsp+32]`` several; ``&name`` is an address; ``as`` converts:
``rdi as u32``, ``*(rdi as *const Thread)``. Operators are Rust's, with ``and or not`` beside
``&& || !``. What does not exist (no thread yet, an `Option` that is None) is None: it equals only
None, and no order holds of it. An enum is its variant's name as text; beside one a variant may be
named as it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError, ReadError, SymbolNotFound
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.operands import is_register, number, register_named, truth
from breenix_gdbagent.kernel.location import address_in

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.known import Known
    from breenix_gdbagent.evaluation.operands import Evaluate
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
            return one_line(value) if isinstance(value, Value) else self.told(value, evaluation)
        except (ReadError, InputError) as error:
            return f"<{error.what}>"

    @property
    def is_address(self) -> bool:
        """Whether it is written as a register or an address, which is shown in hexadecimal."""
        return is_register(self.text) or self.text.startswith("&")

    def told(self, value: Known, evaluation: Evaluation) -> str:
        """A value that it was found to have, as one line of text."""
        from breenix_gdbagent.symbols.tree_text import one_line
        from breenix_gdbagent.symbols.values import Value

        if isinstance(value, Value):
            return one_line(value)
        if isinstance(value, tuple):
            return f"[{', '.join(self.told(one, evaluation) for one in value)}]"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            known = self.is_address or value >= 1 << 32
            name = evaluation.kernel.symbol(value) if known and value > 1 << 16 else None
            if name or self.is_address:
                return f"{hex64(value)} <{name}>" if name else hex64(value)
            return str(value) if -(1 << 63) <= value < 1 << 16 else hex64(value)
        return f'"{value}"' if isinstance(value, str) else str(value)


def parse(
    text: str,
    image: LoadedImage | None = None,
    links: tuple[int, ...] = (),
    kept: Collection[str] = (),
) -> Expression:
    """Raises `InputError` for what is no expression, with where it stops being one.

    With `image`, names that the kernel does not have are refused at once; `links` are link
    addresses of code whose arguments and local variables are meant too, `kept` the names of values
    that were kept.
    """
    from breenix_gdbagent.evaluation.grammar import Grammar

    parser = Grammar(text, kept)
    evaluate = parser.whole()
    if image is not None and parser.typed and not image.image.has_dwarf:
        raise InputError(
            f"{text!r} needs the kernel's types, and its ELF has no debug information (DWARF)"
        )
    for name in parser.statics:
        if image is not None and not _is_variable(name, image, links):
            _check_static(name, image)
    return Expression(text.strip(), evaluate, tuple(parser.statics), parser.typed)


def _is_variable(name: str, image: LoadedImage, links: tuple[int, ...]) -> bool:
    """Whether code at one of `links` has a variable of that name."""
    if "::" in name or not links or not image.image.has_dwarf:
        return False
    from breenix_gdbagent.symbols.variables import names_at

    return any(name in names_at(image.image.debug, link) for link in links)


def _check_static(name: str, image: LoadedImage) -> None:
    """Raises `SymbolNotFound` for what is neither a static nor a function."""
    try:
        image.image.debug.index.statics_named(name)
    except SymbolNotFound:
        if not image.image.addresses_of(name):
            raise


def parse_list(
    text: str, image: LoadedImage | None = None, links: tuple[int, ...] = ()
) -> tuple[Expression, ...]:
    """Expressions with commas between them. Raises as `parse`."""
    from breenix_gdbagent.evaluation.grammar import pieces

    return tuple(parse(piece, image, links) for piece in pieces(text))


def address_at(evaluation: Evaluation, text: str) -> int:
    """An address as people name it: a number, a register, a symbol with an offset, or any
    expression. Raises `InputError`, `ReadError`, `SymbolNotFound`."""
    if is_register(text.strip()):
        return register_named(evaluation, text.strip())
    try:
        return address_in(text, evaluation.kernel.stop)
    except (InputError, SymbolNotFound):
        if _NAME.match(text.strip()) and evaluation.variable(text.strip()) is None:
            raise
    return number(parse(text, kept=evaluation.kept).value(evaluation)) & (1 << 64) - 1
