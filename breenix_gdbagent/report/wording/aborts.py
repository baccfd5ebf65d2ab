"""The sentences about exceptions that the CPU reports in registers."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.faults.aborts import AbortFacts, MisalignedFacts
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.report.wording.base import Words, at, tells

_DONE = {"read": "read from", "write": "wrote to", "fetch": "went to"}


@tells(AbortFacts)
def exception(finding: Finding, facts: AbortFacts) -> Words:
    """Who did what where, what the CPU reports, and whether the tables say the same."""
    place = at(facts.pc, facts.symbol)
    if facts.address is None:
        return Words(f"{facts.el} code at {place} on CPU {facts.cpu}: {facts.says}")
    did = f"{_DONE.get(facts.access, 'accessed')} {hex64(facts.address)}"
    summary = f"{facts.el} code at {place} {did}: {facts.says}"
    if finding.cause is not None:
        summary = f"{facts.says} at {hex64(facts.address)}, and {facts.again}"
    elif facts.guard:
        summary += ", right below the stack that it ran over"
    return Words(summary, _compared(facts))


def _compared(facts: AbortFacts) -> str:
    if facts.agrees is None:
        return ""
    if facts.agrees:
        return f"The tables alone give the ESR_EL1 that the CPU reports, {facts.esr:#x}."
    given = "none" if facts.predicted is None else f"{facts.predicted:#x}"
    return f"The tables as they are give {given}, the CPU reports {facts.esr:#x}."


@tells(MisalignedFacts)
def misaligned(finding: Finding, facts: MisalignedFacts) -> Words:
    """Which SP, and whose."""
    where = at(facts.pc, facts.symbol)
    return Words(f"SP of the code at {where} on CPU {facts.cpu} is {hex64(facts.sp)}")
