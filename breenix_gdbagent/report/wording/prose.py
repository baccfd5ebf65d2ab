"""Findings whose check still writes its own sentences."""

from __future__ import annotations

from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.prose import Prose
from breenix_gdbagent.report.wording.base import Words, tells


@tells(Prose)
def told(finding: Finding, facts: Prose) -> Words:
    """As it was written."""
    return Words(facts.summary)
