"""Values of the kernel by path (``SCHEDULER.current_thread``), as expressions and ``print`` name
them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breenix_gdbagent.kernel.view import Kernel

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.values import Value


def split(path: str) -> tuple[str, str]:
    """(name of the static, what is followed from it): ``a::B.c[0]`` is ``a::B`` and ``.c[0]``."""
    cut = min((i for i in (path.find("."), path.find("[")) if i >= 0), default=len(path))
    return path[:cut], path[cut:]


def value_of(kernel: Kernel, path: str) -> Value:
    """The value that ``PATH[.field[index]...]`` names. Raises `SymbolNotFound`, `ReadError`."""
    from breenix_gdbagent.symbols.tree import resolve

    name, rest = split(path)
    return resolve(kernel.structures.values.static(name), rest)
