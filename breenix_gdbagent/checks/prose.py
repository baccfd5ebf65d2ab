"""Findings of families whose facts are not typed yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from breenix_gdbagent.checks.facts import Facts
from breenix_gdbagent.jsonvalue import Json


@dataclass(frozen=True, slots=True)
class Prose(Facts):
    """Sentence and evidence as the check wrote them."""

    summary: str
    evidence: Mapping[str, Json] = field(default_factory=dict)

    @property
    def about(self) -> str | None:
        stack = self.evidence.get("stack")
        return str(stack) if stack else None
