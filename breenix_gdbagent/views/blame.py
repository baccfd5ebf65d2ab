"""Which module and function a failure is put down to, and the bucket it is counted in.

As ``!analyze`` does it: the innermost frame that is neither the CPU's way into a handler, nor the
machinery of panics, nor the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.checks.examine import Examination
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.views.call_trace import CallTrace, trace_of_cpu

LIBRARY = ("core::", "alloc::", "std::", "compiler_builtins::", "<core::", "<alloc::")
MACHINERY = ("rust_begin_unwind", "panic", "unwrap_failed", "expect_failed", "rust_panic")
NOBODY = "not known"


@dataclass(frozen=True, slots=True)
class Blame:
    """`place` is file:line, "" where no line is known; `bucket` holds no address: it is the same in
    every boot."""

    module: str
    function: str
    place: str
    bucket: str


def blame(examined: Examination, kernel: Kernel) -> Blame | None:
    """None where nothing has failed."""
    errors = [f for f in examined.findings if f.effective_severity == "error"]
    if not errors:
        return None
    found = min(errors, key=lambda one: one.code.kind != "event")  # what the CPU did comes first
    function, place = _guilty(trace_of_cpu(kernel, kernel.stop.cpu), found)
    module = function.rpartition("::")[0] or NOBODY
    return Blame(module, function, place, f"{found.code.name}_{function}")


def _guilty(trace: CallTrace, found: Finding) -> tuple[str, str]:
    """(function, file:line)."""
    frames = trace.trace.frames
    interrupted = [n for n, frame in enumerate(frames) if frame.vector is not None]
    first = interrupted[0] if interrupted and found.code.kind == "event" else 0
    for number, frame in enumerate(frames[first:], first):
        if frame.ring:
            return f"ring {frame.ring}", ""
        for spot in trace.spots[number]:
            if _own(spot.function):
                return spot.function, f"{spot.file}:{spot.line}" if spot.file else ""
        if not trace.spots[number] and frame.symbol is not None and _own(frame.name):
            return frame.name, ""
    return NOBODY, ""


def _own(function: str) -> bool:
    last = function.rpartition("::")[2]
    return not function.startswith(LIBRARY) and not any(word in last for word in MACHINERY)
