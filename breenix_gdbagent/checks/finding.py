"""What a check says: findings with the facts that show them, and the register of their codes.

A finding holds values and no sentence: report/ makes the words and the JSON of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.checks.facts import Facts
from breenix_gdbagent.checks.reasons import Reason
from breenix_gdbagent.cpumodel.confidence import Confidence as Confidence
from breenix_gdbagent.symbols.spot import Spot

Severity = Literal["error", "warning", "info"]
KINDS = ("event", "run", "state")
Kind = Literal["event", "run", "state"]
"""What a code tells of: an ``event`` is what the CPU did (an exception), ``run`` how a run ended
(a panic, a hang, a reset), ``state`` what was found in the guest as it stood."""

SEVERITY_ORDER: dict[str, int] = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class Code:
    """One finding code: what it means, how it arises, how to confirm and mend it, on any kernel.
    What one kernel's history and sources add to that its adapter says (`kernel/adapter.py`).

    `exit` is the exit code of a run in which nothing else of severity error was found.
    """

    name: str
    severity: Severity
    title: str
    arises: str
    confirm: str
    mend: str
    kind: Kind = "state"
    exit: int = 1


CODES: dict[str, Code] = {}


def declare(
    name: str,
    severity: Severity,
    title: str,
    *,
    arises: str,
    confirm: str,
    mend: str,
    kind: Kind = "state",
    exit: int = 1,
) -> Code:
    """Enter a code into the register, once, beside the check that yields it."""
    assert name not in CODES, name
    code = Code(name, severity, title, arises, confirm, mend, kind, exit)
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


def place_of(walk: Walk) -> Where:
    """The place in the tables where a walk ended."""
    last = walk.entries[-1] if walk.entries else None
    return Where(
        walk.root,
        walk.va,
        walk.pa,
        last.raw if last else None,
        last.entry_pa if last else None,
        walk.stopped_at or (last.level if last else None),
    )


@dataclass(frozen=True, slots=True)
class Survived:
    """How the kernel answered an exception, and the code that it had until that was known."""

    was: Code
    how: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect or remarkable state of the guest, with what shows it.

    `subject` is the stable name of what is concerned (symbol, role, process name; no address):
    code and subject make the fingerprint. `cause` is the code of the root cause, itself a finding,
    and `because` are the findings that this one rests on, the cause first. `mend` is the code that
    tells what to do, where it is another's; `advice` says so itself where the facts tell. `walk` is
    the walk of `where`, `survived` stands where the kernel went on after it, and `inside_handler`
    where it was seen only from inside the handler. `check` is the name of the check that found it,
    None for how a run ended. `source` is the line that it happened at, inlined calls first.
    """

    code: Code
    subject: str
    facts: Facts = field(default_factory=Facts)
    where: Where = field(default_factory=Where)
    cause: str | None = None
    because: tuple[Finding, ...] = ()
    chain: tuple[str, ...] = ()
    confidence: Confidence = "proved"
    mend: Code | None = None
    advice: str = ""
    severity: Severity | None = None
    walk: Walk | None = None
    survived: Survived | None = None
    inside_handler: bool = False
    check: str | None = None
    source: tuple[Spot, ...] = ()

    @property
    def fix(self) -> str:
        """What to do, on any kernel."""
        return self.advice or (self.mend or self.code).mend

    @property
    def effective_severity(self) -> Severity:
        """The code's severity, unless the run raised it (`ci --strict`)."""
        return self.severity or self.code.severity

    @property
    def fingerprint(self) -> str:
        """Stable over builds and boots."""
        return f"{self.code.name}@{self.subject}"

    @property
    def sort_key(self) -> tuple[int, str, str, int, int]:
        return (
            SEVERITY_ORDER[self.effective_severity],
            self.code.name,
            self.subject,
            self.where.root or 0,
            self.where.va or 0,
        )


class NotChecked(Exception):
    """Raised by a check that could not look: the reason stands in the report, never a pass."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of one check at one stop; `reason` is None unless it was not checked."""

    name: str
    status: Literal["passed", "failed", "not_checked"]
    reason: Reason | None = None
