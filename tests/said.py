"""What the report says of a finding, for tests that look at its words and its evidence."""

from __future__ import annotations

from typing import Any

from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.report.document import shown_finding
from breenix_gdbagent.report.fields import to_json
from breenix_gdbagent.report.sentences import summary

__all__ = ["evidence", "summary"]


def evidence(finding: Finding) -> Any:
    """The finding's evidence as the JSON document has it."""
    return to_json(shown_finding(finding, 0).evidence)
