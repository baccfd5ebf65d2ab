"""Faults that the kernel went on after: the same finding, as information instead of an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from breenix_gdbagent.checks.faults.aborts import ERET_FRAME, AbortFacts
from breenix_gdbagent.checks.faults.cause import HANDLED
from breenix_gdbagent.checks.faults.interrupted import FaultFacts
from breenix_gdbagent.checks.faults.page_fault import PageFaultFacts
from breenix_gdbagent.checks.finding import Finding, Survived

_ANSWERED = (
    "Nothing in the kernel, which answered a fault of a program. Where that program is not meant "
    "to fault, look at the instruction that it ran."
)


_MENDED = (
    "Nothing: the kernel counts on that fault, or answers it. Where it is not meant to, look at "
    "the instruction that raised it."
)


def is_user_fault(finding: Finding) -> bool:
    """Whether a program in ring 3 did it by itself, so that ending the process is an answer.

    The CPU's own failed access (a kernel stack that is not mapped) is not, whatever ring it met.
    That ring 3 stood in the kernel is a finding of another check (context.privilege-mismatch).
    """
    facts = finding.facts
    if isinstance(facts, AbortFacts):
        return facts.user and finding.cause is None and finding.code is not ERET_FRAME
    if not isinstance(facts, FaultFacts) or facts.at.ring != 3 or finding.cause is not None:
        return False
    return not (isinstance(facts, PageFaultFacts) and facts.implicit)


def _of_tables(finding: Finding) -> bool:
    """Whether it is an abort that page tables gave."""
    facts = finding.facts
    return isinstance(facts, AbortFacts) and facts.agrees is not None


def may_be_mended(findings: Sequence[Finding]) -> bool:
    """Whether what was found at a fault is an exception that a kernel may mend and return from: not
    an interrupt that came at an exception's vector, which a handler returns from too."""
    events = [f for f in findings if f.code.kind == "event"]
    return bool(events) and all(isinstance(f.facts, FaultFacts) for f in events)


def as_handled(finding: Finding, why: str) -> Finding:
    """`finding`, of a fault that the kernel has answered, as information; `why` says how it did.

    A page fault becomes ``page-fault.handled``; another exception keeps its code with severity
    info. What is no fault of a program in ring 3 comes back unchanged.
    """
    if not is_user_fault(finding) or finding.effective_severity == "info":
        return finding
    page_fault = isinstance(finding.facts, PageFaultFacts) or _of_tables(finding)
    return _answered(finding, why, finding.advice if page_fault else _ANSWERED)


def as_mended(finding: Finding, why: str) -> Finding:
    """The same of a fault of the kernel's own that it was seen to return from."""
    if finding.code.kind != "event" or finding.effective_severity == "info":
        return finding
    return _answered(finding, why, _MENDED)


def _answered(finding: Finding, why: str, advice: str) -> Finding:
    code = finding.code
    page_fault = isinstance(finding.facts, PageFaultFacts) or _of_tables(finding)
    return replace(
        finding,
        code=HANDLED if page_fault else code,
        severity="info",
        mend=HANDLED if page_fault else None,
        advice=advice,
        survived=Survived(code, why),
    )
