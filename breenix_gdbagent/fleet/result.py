"""What came of one boot, as it travels from a worker and is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from breenix_gdbagent.checks.finding import CODES
from breenix_gdbagent.fleet.settings import Settings
from breenix_gdbagent.report.causes import line_of_causes
from breenix_gdbagent.report.model import Report, ShownFinding

RANKS = {"event": 0, "state": 1, "run": 2, "ending": 3}
"""Of two findings that always come together the first of these names the cluster."""
CHAINED = ("double-fault", "triple-fault")


@dataclass(frozen=True, slots=True)
class Found:
    """One finding of severity error or warning; `root`: nothing that was found caused it."""

    fingerprint: str
    code: str
    severity: str
    kind: str
    root: bool
    title: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """A boot's snapshot and report, for the first boot of a cluster."""

    core: bytes
    text: str
    json: str


@dataclass(frozen=True, slots=True)
class Result:
    """One boot that ended. `seconds` on the host; `fault_at` seconds of the guest's run at the
    deciding stop, None where it passed; `qemu` its version."""

    number: int
    settings: Settings
    outcome: str
    exit: int
    seconds: float
    fault_at: float | None
    worker: str
    qemu: str | None
    found: tuple[Found, ...]
    evidence: Evidence | None = None


def findings_of(report: Report) -> tuple[Found, ...]:
    """The errors and warnings of a report, each fingerprint once."""
    weighty = [f for f in report.findings if f.severity != "info"]
    made: dict[str, Found] = {}
    for finding in weighty:
        causes = [f for f in line_of_causes(finding, report.findings) if f.severity != "info"]
        one = Found(
            _fingerprint(finding, root=not causes),
            finding.code,
            finding.severity,
            CODES[finding.code].kind if finding.code in CODES else "state",
            not causes,
            finding.title,
        )
        known = made.get(one.fingerprint)
        if known is None or (one.root and not known.root):
            made[one.fingerprint] = one
    return tuple(made.values())


def _fingerprint(finding: ShownFinding, *, root: bool) -> str:
    """The finding's own; of a double or triple fault that nothing else explains, with the vectors
    that led to it: these tell one from another."""
    if not root or finding.code not in CHAINED or not finding.chain:
        return finding.fingerprint
    return f"{finding.fingerprint} after {' '.join(_links(finding.chain))}"


def _links(chain: Sequence[object]) -> list[str]:
    return [str(link) for link in chain]
