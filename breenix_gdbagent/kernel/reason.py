"""Why a stop that comes without a reason stands where it stands: seen in its CPUs."""

from __future__ import annotations

from dataclasses import replace

from breenix_gdbagent.kernel.event import infer_reason
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop


def with_reason(stop: Stop) -> Stop:
    """`stop`, of kind ``fault`` if it is a bare core taken at the first instruction of an
    exception's handler; as it was otherwise. Never raises for what the core lacks."""
    if stop.reason.kind != "core" or not stop.cpus:
        return stop
    found = infer_reason(Kernel(stop))
    return stop if found is None else replace(stop, reason=found)
