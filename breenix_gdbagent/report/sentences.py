"""The sentences about any finding: its family's wording, else its title and facts."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.report.wording import (
    aborts,
    addresses,
    descriptors,
    faults,
    frames,
    run,
    stacks,
    tables,
    threads,
    translation,
)
from breenix_gdbagent.report.wording.base import TELLERS, Words

FAMILIES = (
    aborts, addresses, descriptors, faults, frames, run, stacks, tables, threads, translation
)  # fmt: skip
"""The modules that have entered their functions; named here, so that they are imported."""


def words(finding: Finding) -> Words:
    """The words for a finding; what became of it afterwards ends the summary."""
    tell = TELLERS.get(type(finding.facts))
    told = _plainly(finding) if tell is None else tell(finding, finding.facts)
    if finding.survived is None:
        return told
    return Words(f"{told.summary}; {finding.survived.how}", told.explanation, told.picture)


def summary(finding: Finding) -> str:
    """The one line that says what was found."""
    return words(finding).summary


def _plainly(finding: Finding) -> Words:
    where = "" if finding.where.va is None else f" at {hex64(finding.where.va)}"
    return Words(f"{finding.subject}: {finding.code.title}{where}")
