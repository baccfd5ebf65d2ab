"""Faults that the kernel went on after: the same finding, no longer an error."""

from __future__ import annotations

from dataclasses import replace

from breenix_gdbagent.checks.faults.cause import HANDLED
from breenix_gdbagent.checks.finding import Finding, Survived
from breenix_gdbagent.checks.prose import Prose


def is_user_fault(finding: Finding) -> bool:
    """Whether a program in ring 3 did it by itself, so that ending the process is an answer.

    The CPU's own failed access (a kernel stack that is not mapped) is not, whatever ring it met.
    That ring 3 stood in the kernel is a finding of another check (context.privilege-mismatch).
    """
    ring, implicit = ring_of(finding)
    return ring == 3 and not implicit and finding.cause is None


def ring_of(finding: Finding) -> tuple[int | None, bool]:
    """The ring that an exception interrupted, and whether the access was the CPU's own."""
    if not isinstance(finding.facts, Prose):
        return None, False
    evidence = finding.facts.evidence
    ring = evidence.get("ring")
    return ring if isinstance(ring, int) else None, bool(evidence.get("implicit"))


def as_handled(finding: Finding, why: str) -> Finding:
    """`finding`, of a fault that the kernel has answered, as information; `why` says how it did.

    A page fault becomes ``page-fault.handled``; another exception keeps its code with severity
    info. What is no fault of a program in ring 3 comes back unchanged.
    """
    if not is_user_fault(finding) or finding.weight == "info":
        return finding
    code = finding.code
    page_fault = (
        code.name.startswith("page-fault.")
        and isinstance(finding.facts, Prose)
        and "error_bits" in finding.facts.evidence
    )
    return replace(
        finding,
        code=HANDLED if page_fault else code,
        severity="info",
        mend=HANDLED,
        survived=Survived(code, why),
    )
