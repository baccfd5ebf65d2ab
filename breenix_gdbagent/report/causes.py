"""What follows from what: findings put under the cause that they name in `because`.

Presentation only. Every finding stays in the document; a consequence is told under its cause, so
that one defect reads as one, however many checks have met it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from breenix_gdbagent.report.model import Report, ShownFinding
from breenix_gdbagent.report.story import SEVERITIES, ordered


@dataclass(frozen=True, slots=True)
class Group:
    """A cause and all that follows from it, in the order in which it is told."""

    cause: ShownFinding
    followed: tuple[ShownFinding, ...] = ()

    @property
    def lead(self) -> ShownFinding | None:
        """What the CPU did because of a state that was found: told in full, before the state."""
        if self.cause.kind != "state":
            return None
        events = [f for f in self.followed if f.kind == "event"]
        bases = {base for f in events for base in f.because}
        return next((f for f in events if f.fingerprint not in bases), None)

    @property
    def led_to(self) -> tuple[ShownFinding, ...]:
        """What else the CPU and the run came to: a line each."""
        lead = self.lead
        before = () if lead is None else lead.because
        return tuple(
            f
            for f in self.followed
            if f.kind != "state" and f is not lead and f.fingerprint not in before
        )

    @property
    def folded(self) -> tuple[ShownFinding, ...]:
        """The rest: states that are as they are because of the cause, and what the leading one
        has told already."""
        told = (self.lead, *self.led_to)
        return tuple(f for f in self.followed if not any(f is t for t in told))

    @property
    def shown(self) -> tuple[ShownFinding, ...]:
        """What is told in full: the cause, and before it what the CPU did because of it."""
        return (self.cause,) if self.lead is None else (self.lead, self.cause)

    @property
    def told(self) -> tuple[ShownFinding, ...]:
        """All of it, what is told in full first."""
        rest = (f for f in self.followed if f is not self.lead)
        return (*self.shown, *rest)

    @property
    def followed_words(self) -> str:
        """What `told` has behind `shown`, in the words of `folded_words`."""
        return consequences_words(self.told[len(self.shown) :])

    @property
    def folded_words(self) -> str:
        """``11 consequences: kernel-stack.unmapped (4), ist.unmapped (2)``."""
        return consequences_words(self.folded)


def consequences_words(findings: Sequence[ShownFinding]) -> str:
    """How many, and their codes."""
    number = len(findings)
    return f"{number} consequence{'s' * (number != 1)}: {codes_words(findings)}"


def codes_words(findings: Sequence[ShownFinding]) -> str:
    """Their codes, each once, with how many there are of it."""
    found = Counter(f.code for f in findings)
    return ", ".join(code if n == 1 else f"{code} ({n})" for code, n in found.items())


def groups(report: Report) -> list[Group]:
    """Every finding in exactly one group, in the order in which they are best told."""
    members: dict[int, list[ShownFinding]] = {}
    roots: dict[int, ShownFinding] = {}
    for finding in ordered(report):
        line = line_of_causes(finding, report.findings)
        root = line[-1] if line else finding
        roots.setdefault(id(root), root)
        found = members.setdefault(id(root), [])
        if finding is not root:
            found.append(finding)
    return [Group(root, tuple(members[key])) for key, root in roots.items()]


def fault_of(report: Report) -> Group | None:
    """The group that tells what the CPU did, else how the run ended; None where none does."""
    for kind in ("event", "run"):
        for group in groups(report):
            if any(f.kind == kind for f in group.told):
                return group
    return None


def line_of_causes(finding: ShownFinding, findings: Sequence[ShownFinding]) -> list[ShownFinding]:
    """What caused it, what caused that, and so on to the last that is known."""
    line: list[ShownFinding] = []
    at: ShownFinding | None = finding
    while at is not None:
        at = _cause_of(at, findings)
        if at is finding or any(at is one for one in line):
            return []  # a circle has no first
        if at is not None:
            line.append(at)
    return line


def _cause_of(finding: ShownFinding, findings: Sequence[ShownFinding]) -> ShownFinding | None:
    """The finding that it names first in `because`; nothing that weighs less than itself."""
    for base in finding.because:
        found = [
            f
            for f in findings
            if f.fingerprint == base
            and f is not finding
            and SEVERITIES.index(f.severity) <= SEVERITIES.index(finding.severity)
        ]
        here = [f for f in found if f.stop == finding.stop]
        if found:
            return (here or found)[0]
    return None


def folded_in(report: Report) -> tuple[int, str]:
    """(how many findings are told under another one, under which: one code, or how many)."""
    made = [g for g in groups(report) if g.followed]
    number = sum(len(g.followed) for g in made)
    return number, made[0].cause.code if len(made) == 1 else f"{len(made)} of them"
