"""breenix_gdbagent: tells why the Breenix kernel faulted, from outside.

The Python API, `api.vm` and `api.stops`, is imported when a name of it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from breenix_gdbagent.version import VERSION as __version__

if TYPE_CHECKING:
    from breenix_gdbagent.api.replay import ReplayedVm, replay
    from breenix_gdbagent.api.stops import (
        backtrace,
        examine,
        frames,
        open_snapshot,
        read,
        save,
        tell,
        value,
        walk,
    )
    from breenix_gdbagent.api.vm import Vm, attach, launch
    from breenix_gdbagent.checks.examine import Examination
    from breenix_gdbagent.checks.finding import Finding
    from breenix_gdbagent.debugger.points import Point
    from breenix_gdbagent.errors import AgentError
    from breenix_gdbagent.kernel.view import Kernel
    from breenix_gdbagent.stop import Stop, StopReason

__all__ = [
    "AgentError",
    "Examination",
    "Finding",
    "Kernel",
    "Point",
    "ReplayedVm",
    "Stop",
    "StopReason",
    "Vm",
    "__version__",
    "attach",
    "backtrace",
    "examine",
    "frames",
    "launch",
    "open_snapshot",
    "read",
    "replay",
    "save",
    "tell",
    "value",
    "walk",
]

_HOMES = {
    "AgentError": "errors",
    "Examination": "checks.examine",
    "Finding": "checks.finding",
    "Kernel": "kernel.view",
    "Point": "debugger.points",
    "Stop": "stop",
    "StopReason": "stop",
    **dict.fromkeys(("ReplayedVm", "replay"), "api.replay"),
    **dict.fromkeys(("Vm", "attach", "launch"), "api.vm"),
    **dict.fromkeys(
        (
            "backtrace", "examine", "frames", "open_snapshot", "read", "save", "tell", "value",
            "walk",
        ),
        "api.stops",
    ),
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """A name of the face, from the module where it lives."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
