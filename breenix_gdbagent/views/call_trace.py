"""Backtraces with the source of each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import AgentError, InputError, ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.symbols.backtrace import Backtrace, Frame
from breenix_gdbagent.symbols.spots import spots

if TYPE_CHECKING:
    from breenix_gdbagent.arch.cpu import Cpu
    from breenix_gdbagent.symbols.spot import Spot
    from breenix_gdbagent.symbols.tree import Limits
    from breenix_gdbagent.views.variables import ReadVariable


@dataclass(frozen=True, slots=True)
class CallTrace:
    """A backtrace; `spots` has for each of its frames the chain of inlined calls, innermost
    first, empty where no line is known; `variables` has those of each of these calls, () where
    they were not asked for."""

    trace: Backtrace
    spots: tuple[tuple[Spot, ...], ...]
    variables: tuple[tuple[tuple[ReadVariable, ...], ...], ...] = ()


def located(
    kernel: Kernel, trace: Backtrace, variables: int = 0, limits: Limits | None = None
) -> CallTrace:
    """The backtrace with the source of each frame, and the variables of the innermost
    `variables` frames, within `limits` (else as much as a screen takes) each."""
    image = kernel.stop.image
    lines = tuple(spots(image, frame.lookup) for frame in trace.frames)
    frames = trace.frames[:variables]
    return CallTrace(trace, lines, _variables(kernel, frames, limits) if frames else ())


def _variables(
    kernel: Kernel, frames: Sequence[Frame], limits: Limits | None
) -> tuple[tuple[tuple[ReadVariable, ...], ...], ...]:
    """The variables of frames; () for a frame of which none are known."""
    from breenix_gdbagent.symbols.values import Values
    from breenix_gdbagent.symbols.variables import scopes
    from breenix_gdbagent.views.variables import SHOWN, read_scopes

    image = kernel.stop.image
    root = kernel.stop.cpu.root or kernel.reference_root
    if image is None or not image.image.has_dwarf or root is None:
        return ()
    try:
        values = Values(image, kernel.memory_of(root).read)
        shown = limits or SHOWN
        return tuple(
            () if frame.ring else read_scopes(scopes(values, frame), shown) for frame in frames
        )
    except (InputError, ReadError):
        return ()


def trace_of_cpu(
    kernel: Kernel, cpu: Cpu, variables: int = 0, limits: Limits | None = None
) -> CallTrace:
    """The frames of one CPU; none, and in `end` the reason, where it cannot be unwound."""
    from breenix_gdbagent.kernel import trace

    if kernel.stop.image is None:
        return CallTrace(Backtrace((), "no kernel ELF is known for this stop"), ())
    try:
        return located(kernel, trace.of_cpu(kernel, cpu), variables, limits)
    except AgentError as lacking:
        return CallTrace(Backtrace((), lacking.what), ())
