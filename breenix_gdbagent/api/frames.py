"""Calls of a backtrace with their variables, for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.operands import plain
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.symbols.backtrace import Backtrace, Frame
from breenix_gdbagent.symbols.spots import spots

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.known import Known
    from breenix_gdbagent.symbols.variables import Scope, Variable


@dataclass(frozen=True)
class Gone:
    """A variable that cannot be had, and why: most often it was optimised out."""

    reason: str


@dataclass(frozen=True, repr=False)
class Call:
    """One call: `frame` is the frame that it is in, `depth` how many calls inlined there are
    further in. `args` and `locals` have numbers and text as Python's, a struct as a `Value`."""

    kernel: Kernel
    cpu: Cpu
    frame: Frame
    depth: int
    name: str
    file: str | None
    line: int | None
    inlined: bool

    def __repr__(self) -> str:
        at = f" at {self.file}:{self.line}" if self.file else ""
        return f"<Call {self.frame.pc:#x} {self.name}{at}{', inlined' if self.inlined else ''}>"

    @cached_property
    def _evaluation(self) -> Evaluation:
        return Evaluation.of(self.kernel, self.cpu, self.frame, self.depth)

    @property
    def _scope(self) -> Scope | None:
        return next(iter(self._evaluation.scopes), None)

    @property
    def args(self) -> Mapping[str, Known | Gone]:
        """Arguments by name."""
        return self._variables(argument=True)

    @property
    def locals(self) -> Mapping[str, Known | Gone]:
        """Local variables by name, of a name that is there twice the innermost."""
        return self._variables(argument=False)

    def _variables(self, *, argument: bool) -> dict[str, Known | Gone]:
        scope = self._scope
        if scope is None:
            return {}
        found = [v for v in scope.variables if v.argument == argument]
        return {v.name: _value(v) for v in reversed(found)}

    def value(self, text: str) -> Known:
        """An expression in this call, see `stops.value`."""
        from breenix_gdbagent.evaluation.expressions import parse

        return parse(text).value(self._evaluation)


def _value(variable: Variable) -> Known | Gone:
    if variable.value is None:
        return Gone(variable.why)
    try:
        return plain(variable.value)
    except InputError:
        return variable.value
    except ReadError as error:
        return Gone(error.what)


def calls(kernel: Kernel, cpu: Cpu, trace: Backtrace) -> list[Call]:
    """The calls of a backtrace, innermost first, those inlined too."""
    found = []
    for frame in trace.frames:
        chain = spots(kernel.stop.image, frame.lookup)
        if not chain:
            name = f"ring {frame.ring}" if frame.ring else frame.name
            found.append(Call(kernel, cpu, frame, 0, name, None, None, False))
        found += [
            Call(kernel, cpu, frame, depth, s.function, s.file, s.line, s.inlined)
            for depth, s in enumerate(chain)
        ]
    return found
