"""What the report says of a finding, for tests that look at its words and its evidence."""

from __future__ import annotations

from typing import Any

from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.report.document import finding_json
from breenix_gdbagent.report.sentences import summary

__all__ = ["evidence", "summary"]


def evidence(finding: Finding) -> Any:
    """The finding's evidence as the JSON document has it."""
    return finding_json(finding, 0)["evidence"]
