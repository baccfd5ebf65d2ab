"""The audit at many moments of a recording, each moment once, for every code together."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.timeline.player import Moment, Player


class Verdict(Enum):
    """What the audit says of one finding at one moment: it holds, it does not, or it cannot be
    told, because what it rests on could not be looked at."""

    HOLDS = "holds"
    NOT = "does not hold"
    UNTOLD = "cannot be told"


class Question(NamedTuple):
    """One finding: its code and, where that matters, its subject; `checks` are the checks that
    tell it."""

    code: str
    subject: str | None
    checks: frozenset[str]

    def answers(self, finding: Finding) -> bool:
        """Whether a finding is this one."""
        if finding.code.name != self.code:
            return False
        return self.subject is None or self.subject in (finding.subject, finding.facts.about)


class Seen(NamedTuple):
    """What is kept of one examination."""

    findings: tuple[Finding, ...]
    untold: frozenset[str]

    def verdict(self, question: Question) -> Verdict:
        """What it says of that finding."""
        if any(question.answers(finding) for finding in self.findings):
            return Verdict.HOLDS
        return Verdict.UNTOLD if question.checks & self.untold else Verdict.NOT


class Probes:
    """Examinations of one recording by instruction count. `count` is how many were made; `tell`
    is called after each."""

    def __init__(self, player: Player, tell: Callable[[int], None] = lambda count: None) -> None:
        self.player = player
        self.count = 0
        self._tell = tell
        self._seen: dict[int, Seen] = {}

    def at(self, icount: int) -> Seen:
        """The examination of that moment. Raises `LinkError`."""
        if icount not in self._seen:
            self._seen[icount] = self._look(Moment(icount))
        return self._seen[icount]

    def at_end(self) -> Seen:
        """That of the stop that ended the run."""
        return self._look(self.player.end)

    def known(self, question: Question) -> list[tuple[int, Verdict]]:
        """Every moment that was looked at, with what it says of a finding, in order."""
        return [(icount, self._seen[icount].verdict(question)) for icount in sorted(self._seen)]

    def _look(self, moment: Moment) -> Seen:
        kernel = self.player.kernel(moment)
        self.count += 1
        seen = examine(kernel.stop, kernel)
        self._tell(self.count)
        untold = {check.name for check in seen.checks if check.status == "not_checked"}
        return Seen(seen.findings, frozenset(untold))
