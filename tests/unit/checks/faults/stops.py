"""What the tests of this folder share."""

from __future__ import annotations

from breenix_gdbagent.checks.faults import check
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop


def found(stop: Stop) -> list[Finding]:
    """What the check says of a stop, in its order."""
    return list(check(Kernel(stop)))


def only(stop: Stop) -> Finding:
    (finding,) = found(stop)
    return finding


def names(stop: Stop) -> list[str]:
    return [f.code.name for f in found(stop)]
