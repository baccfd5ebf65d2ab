"""Points: breakpoints, watchpoints, checkpoints and invariants as values, with what they count."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from breenix_gdbagent.addresses import counted
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import Expression
from breenix_gdbagent.evaluation.places import Place
from breenix_gdbagent.x86.control import CR3_ADDRESS

Kind = Literal["break", "watch", "entry", "checkpoint", "invariant", "passage"]
Access = Literal["write", "read", "access"]
KEPT = 100


@dataclass(frozen=True, slots=True)
class Only:
    """When a hit counts: `process` is a pid or a name (the hit's CR3 is its root), `cpu` an index,
    `condition` an expression that must hold."""

    process: str | None = None
    cpu: int | None = None
    condition: Expression | None = None

    @property
    def text(self) -> str:
        parts = []
        if self.process is not None:
            parts.append(f"process {self.process}")
        if self.cpu is not None:
            parts.append(f"cpu {self.cpu}")
        if self.condition is not None:
            parts.append(f"if {self.condition.text}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Watched:
    """A range of virtual addresses that is watched: `name` as the user wrote it."""

    name: str
    address: int
    length: int
    access: Access = "write"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One hit of a checkpoint: the guest's running time, the CPU, and what was printed."""

    seconds: float
    cpu: int
    text: str


@dataclass(slots=True, eq=False)
class Point:
    """One numbered point. `hits` counts those that its `only` admits, `ignore` how many of the next
    are passed; `value` is what a watched range held last, or why an invariant could not look;
    `accept` is the test of an internal one (a passage on the way of a step). Of a checkpoint
    `refused` counts hits whose condition was false, `most` is how many hits are told; a
    `compact` one tells only what changed, `shown` is what was told last and `same` how many hits
    since were equal to it."""

    number: int
    kind: Kind
    place: Place
    only: Only = field(default_factory=Only)
    ignore: int = 0
    once: bool = False
    enabled: bool = True
    quiet: bool = False
    compact: bool = True
    expressions: tuple[Expression, ...] = ()
    check: str = ""
    watched: tuple[Watched, ...] = ()
    value: str | None = None
    accept: Callable[[Evaluation], bool] | None = None
    hits: int = 0
    refused: int = 0
    most: int | None = None
    shown: tuple[str, ...] = ()
    same: int = 0
    first: float | None = None
    last: float | None = None
    records: deque[Recorded] = field(default_factory=lambda: deque(maxlen=KEPT))

    @property
    def rate(self) -> float | None:
        """Hits a second of the guest's running time, None before the second one."""
        if self.first is None or self.last is None or self.last <= self.first:
            return None
        return (self.hits - 1) / (self.last - self.first)

    @property
    def count(self) -> str:
        """How many hits, and how often, in words."""
        rate = "" if self.rate is None else f", {self.rate:.1f} a second"
        passed = f", {self.refused} more with a false condition" if self.refused else ""
        return f"{counted(self.hits, 'hit')}{rate}{passed}"

    def counted(self, seconds: float) -> None:
        """One more hit, at this running time of the guest."""
        self.hits += 1
        self.first = seconds if self.first is None else self.first
        self.last = seconds

    def describe(self) -> str:
        """What it is, in one line without its number."""
        words = {"break": "breakpoint", "entry": "page-table entry", "passage": "passage"}
        text = f"{words.get(self.kind, self.kind)} at {self.place.text}"
        if self.kind == "watch" and not self.watched:
            text = f"watch {self.place.text}"
        elif self.kind == "watch":
            how = {"write": "", "read": " read", "access": " access"}[self.watched[0].access]
            text = f"watch{how} {self.watched[0].name}"
        if self.kind == "invariant":
            text = f"invariant {self.check} at {self.place.text}"
        return f"{text} {self.only.text}".strip()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a hit counts, and why it cannot be told."""

    counts: bool
    trouble: str = ""


def admits(only: Only, evaluation: Evaluation) -> Verdict:
    """Whether `only` admits a hit. What cannot be read admits it and says so: a breakpoint that
    passes because its condition is broken would be silent for ever."""
    if only.cpu is not None and evaluation.cpu.index != only.cpu:
        return Verdict(False)
    try:
        if only.process is not None and not in_process(evaluation, only.process):
            return Verdict(False)
        if only.condition is not None and not only.condition.holds(evaluation):
            return Verdict(False)
    except (ReadError, InputError) as error:
        return Verdict(True, f"cannot tell `{only.text}`: {error.what}")
    return Verdict(True)


def in_process(evaluation: Evaluation, process: str) -> bool:
    """Whether CR3 is the root of the process of that pid or name. Raises `ReadError`."""
    cr3 = evaluation.cpu.cr3
    if cr3 is None:
        return False
    space = next((s for s in evaluation.kernel.named_spaces if s.root == cr3 & CR3_ADDRESS), None)
    if space is None or space.role != "process":
        return False
    return str(space.pid) == process or space.name == process
