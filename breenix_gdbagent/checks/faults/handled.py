"""Faults that the kernel went on after: the same finding, no longer an error."""

from __future__ import annotations

from dataclasses import replace

from breenix_gdbagent.checks.faults.cause import HANDLED
from breenix_gdbagent.checks.finding import Finding


def is_user_fault(finding: Finding) -> bool:
    """Whether a program in ring 3 did it by itself, so that ending the process is an answer.

    The CPU's own failed access (a kernel stack that is not mapped) is not, whatever ring it met.
    That ring 3 stood in the kernel is a finding of another check (context.privilege-mismatch).
    """
    evidence = finding.evidence
    return evidence.get("ring") == 3 and not evidence.get("implicit") and finding.cause is None


def as_handled(finding: Finding, why: str) -> Finding:
    """`finding`, of a fault that the kernel has answered, as information; `why` says how it did.

    A page fault becomes ``page-fault.handled``; another exception keeps its code with severity
    info. What is no fault of a program in ring 3 comes back unchanged.
    """
    if not is_user_fault(finding) or finding.weight == "info":
        return finding
    code = finding.code
    page_fault = code.name.startswith("page-fault.") and "error_bits" in finding.evidence
    return replace(
        finding,
        code=HANDLED if page_fault else code,
        severity="info",
        summary=f"{finding.summary}; {why}",
        evidence={**finding.evidence, "was": code.name, "handled": why},
        fix=HANDLED.mend,
    )
