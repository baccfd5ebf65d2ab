"""What a check says: findings with evidence, and the register of their codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.cpumodel.confidence import Confidence as Confidence
from breenix_gdbagent.jsonvalue import Json

Severity = Literal["error", "warning", "info"]

SEVERITY_ORDER: dict[str, int] = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class Code:
    """One finding code: what it means, how it arises in Breenix, how to confirm and mend it."""

    name: str
    severity: Severity
    title: str
    arises: str
    confirm: str
    mend: str
    see: tuple[str, ...] = ()


CODES: dict[str, Code] = {}


def declare(
    name: str,
    severity: Severity,
    title: str,
    *,
    arises: str,
    confirm: str,
    mend: str,
    see: Sequence[str] = (),
) -> Code:
    """Enter a code into the register, once, beside the check that yields it."""
    assert name not in CODES, name
    code = Code(name, severity, title, arises, confirm, mend, tuple(see))
    CODES[name] = code
    return code


@dataclass(frozen=True, slots=True)
class Where:
    """The page-table place a finding is about; what does not apply is None."""

    root: int | None = None
    va: int | None = None
    pa: int | None = None
    entry: int | None = None
    entry_pa: int | None = None
    level: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect or remarkable state of the guest, with what shows it.

    `subject` is the stable name of what is concerned (symbol, role, process name; no address):
    code and subject make the fingerprint. `cause` is the code of the root cause, itself a finding.
    """

    code: Code
    summary: str
    subject: str
    evidence: Mapping[str, Json] = field(default_factory=dict)
    where: Where = field(default_factory=Where)
    cause: str | None = None
    chain: tuple[str, ...] = ()
    confidence: Confidence = "proved"
    fix: str = ""
    severity: Severity | None = None

    @property
    def weight(self) -> Severity:
        """The code's severity, unless the run raised it (`ci --strict`)."""
        return self.severity or self.code.severity

    @property
    def fingerprint(self) -> str:
        """Stable over builds and boots."""
        return f"{self.code.name}@{self.subject}"

    @property
    def sort_key(self) -> tuple[int, str, str, int, int]:
        return (
            SEVERITY_ORDER[self.weight],
            self.code.name,
            self.subject,
            self.where.root or 0,
            self.where.va or 0,
        )


class NotChecked(Exception):
    """Raised by a check that could not look: the reason stands in the report, never a pass."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of one check at one stop."""

    name: str
    status: Literal["passed", "failed", "not_checked"]
    reason: str = ""


def hexes(values: Sequence[int] | Iterator[int]) -> list[Json]:
    """Addresses as the report has them."""
    return [hex64(v) for v in values]
