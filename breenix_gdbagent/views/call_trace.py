"""Backtraces with the source of each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import AgentError, InputError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.symbols import LoadedImage
from breenix_gdbagent.symbols.backtrace import Backtrace

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.lines import Spot
    from breenix_gdbagent.x86.cpu import Cpu


@dataclass(frozen=True, slots=True)
class CallTrace:
    """A backtrace; `spots` has for each of its frames the chain of inlined calls, innermost
    first, empty where no line is known."""

    trace: Backtrace
    spots: tuple[tuple[Spot, ...], ...]


def spots(image: LoadedImage | None, va: int) -> tuple[Spot, ...]:
    """File, line and inline chain of a kernel address, innermost first; () where not known."""
    if image is None or not image.image.has_dwarf or not image.holds(va):
        return ()
    link = image.link(va)
    symbol = image.image.symbols.covering(link)
    try:
        lines = image.image.debug.lines
        # Hand-written assembly is labels, and has lines only where its unit says so.
        if symbol is not None and symbol.kind == "label" and not lines.is_listed(link):
            return ()
        return lines.at(link)
    except InputError:
        return ()


def located(kernel: Kernel, trace: Backtrace) -> CallTrace:
    """The backtrace with the source of each frame."""
    image = kernel.stop.image
    return CallTrace(trace, tuple(spots(image, frame.lookup) for frame in trace.frames))


def trace_of_cpu(kernel: Kernel, cpu: Cpu) -> CallTrace:
    """The frames of one CPU; none, and in `end` the reason, where it cannot be unwound."""
    from breenix_gdbagent.kernel import trace

    if kernel.stop.image is None:
        return CallTrace(Backtrace((), "no kernel ELF is known for this stop"), ())
    try:
        return located(kernel, trace.of_cpu(kernel, cpu))
    except AgentError as lacking:
        return CallTrace(Backtrace((), lacking.what), ())
