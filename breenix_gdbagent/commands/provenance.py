"""Where a report comes from: versions and timings; no path of the host, nothing of its environment.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.version import VERSION

if TYPE_CHECKING:
    from breenix_gdbagent.checks.examine import CheckTime
    from breenix_gdbagent.targets import Machine


def provenance(
    machine: Machine | None, seconds: float, took: Sequence[CheckTime] = ()
) -> dict[str, Json]:
    """Versions of what took part, the arguments with paths cut to file names, seconds in all and
    of each check."""
    timings: dict[str, Json] = {"total": round(seconds, 3)}
    if took:
        timings["checks"] = [
            {"stop": one.stop, "check": one.check, "seconds": round(one.seconds, 6)} for one in took
        ]
    return {
        "versions": {
            "breenix_gdbagent": VERSION,
            "python": sys.version.split()[0],
            "qemu": _qemu_version(machine),
        },
        "arguments": [_shown(a) for a in sys.argv[1:]],
        "timings": timings,
    }


def _shown(argument: str) -> str:
    return Path(argument).name if "/" in argument and not argument.startswith("-") else argument


def _qemu_version(machine: Machine | None) -> str | None:
    """As QEMU says by QMP; None where it cannot be asked."""
    return machine.vm.qemu_version if machine is not None else None
