"""Arguments and locals of frames, read as far as they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.symbols.tree import Limits
from breenix_gdbagent.symbols.tree_text import one_line

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.variables import Scope, Variable

SHOWN = Limits(depth=8, items=16, text=256, nodes=256)
INSIDE = Limits(depth=4, items=8, nodes=64, follow=False)
"""What a report tells of a variable: the same whether or not memory elsewhere was kept."""


@dataclass(frozen=True, slots=True)
class ReadVariable:
    """A variable: its value as one line, None where it cannot be had, for the `reason`."""

    name: str
    argument: bool
    type: str | None
    text: str | None
    reason: str = ""

    @property
    def told(self) -> str:
        """The value, or in angle brackets why it has none."""
        return f"<{self.reason}>" if self.text is None else self.text

    def brief(self, width: int) -> str:
        """`told` in at most `width` columns."""
        told = self.told if self.text is not None else f"<{self.reason.partition(' (')[0]}>"
        return told if len(told) <= width else f"{told[: width - 3]}..."


def read_variable(variable: Variable, limits: Limits | None = None) -> ReadVariable:
    """A variable with its value read now. Never raises for a value that cannot be had."""
    name, argument, value = variable.name, variable.argument, variable.value
    if value is None:
        return ReadVariable(name, argument, None, None, variable.why)
    try:
        return ReadVariable(name, argument, value.type.name, one_line(value, limits))
    except (ReadError, InputError) as error:
        return ReadVariable(name, argument, value.type.name, None, error.what)


def read_scopes(
    scopes: Sequence[Scope], limits: Limits | None = None
) -> tuple[tuple[ReadVariable, ...], ...]:
    """The variables of a frame's calls, innermost first."""
    return tuple(tuple(read_variable(v, limits) for v in scope.variables) for scope in scopes)
