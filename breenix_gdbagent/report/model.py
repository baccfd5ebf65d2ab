"""The report document, schema 1, as values: what every output format reads.

Addresses, registers and entries are texts ``0x...`` here as they are in the JSON, which
`fields.to_json` makes of these classes and `fields.from_json` reads back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.fields import OMITTED, from_json, to_json
from breenix_gdbagent.report.shown_facts import Fact, Named, facts_of, named_in
from breenix_gdbagent.report.shown_walk import ShownWalk

Object = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Marker:
    """Serial text that the run waited for or knows, and when it came (seconds of guest time)."""

    text: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ShownSuite:
    """One suite of the kernel's own tests, as the kernel says it went."""

    suite: str
    passed: int
    failed: int
    skipped: int
    failures: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Interrupts:
    """What `--check-interrupts` saw: entries through gates, returns to where a thread was
    interrupted, those with other registers, and the stops that took."""

    entries: int
    returns: int
    changed: int
    stops: int


@dataclass(frozen=True, slots=True)
class ShownRun:
    """How the run went: see `RunRecord`. `tests` are the kernel's own, `missing` is what was
    expected and did not come, `gone` what of the baseline is there no more."""

    outcome: str
    exit: int
    seconds: float
    agent_stops: int
    markers: tuple[Marker, ...]
    benign_faults: int
    missing: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    succeeded: str | None = None
    watched: float = 0.0
    counted: bool = True
    armed: str = ""
    tests: tuple[ShownSuite, ...] = ()
    interrupts: Interrupts | None = None


@dataclass(frozen=True, slots=True)
class PortEnd:
    """The last line of a port at a stop, counted from 1; 0 for none."""

    port: int
    line: int


@dataclass(frozen=True, slots=True)
class ShownCpu:
    """A CPU at a stop; `backtrace` as `bt --json` has it, by files' short names. Of one that is not
    of x86-64 `rip` and `rsp` are PC and SP, `privilege` is its level and `system` are its system
    registers by name."""

    id: int
    rip: str | None
    rsp: str | None
    cr0: str | None = None
    cr2: str | None = None
    cr3: str | None = None
    cr4: str | None = None
    efer: str | None = None
    cpl: int | None = None
    symbol: str | None = None
    process: str | None = None
    thread: str | None = None
    space: str | None = None
    backtrace: Object = field(default_factory=lambda: NO_TRACE)
    privilege: str = field(default="", metadata=OMITTED)
    system: Object | None = field(default=None, metadata=OMITTED)


NO_TRACE: Object = {"frames": [], "left_out": 0, "end": ""}


@dataclass(frozen=True, slots=True)
class ShownStop:
    """Why the guest was stopped, and every CPU. `vector_name` names a vector that is none of
    x86-64's."""

    id: int
    seconds: float
    reason: str
    vector: int | None
    error_code: str | None
    cr2: str | None
    text: str = ""
    serial: tuple[PortEnd, ...] = ()
    cpus: tuple[ShownCpu, ...] = ()
    vector_name: str = field(default="", metadata=OMITTED)


@dataclass(frozen=True, slots=True)
class ShownSpace:
    """A root, see `Space`."""

    root: str
    role: str
    live: bool | None
    pid: int | None
    name: str | None
    source: str


NOTHING_NAMED = Named()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What shows a finding: the paragraph that tells it, its facts, and the walk of its place, also
    drawn by whoever tells it (`walk_text`). `seen` says that it was seen from inside its handler,
    `was` and `handled` which code it had before the kernel went on after it and how; `baseline` and
    `expected` that the run was told of it. `named` is what its facts name; the document has it as
    those."""

    explanation: str = ""
    walk_text: str = ""
    facts: tuple[Fact, ...] = ()
    seen: str = ""
    was: str = ""
    handled: str = ""
    walk: ShownWalk | None = None
    baseline: bool = False
    expected: bool = False
    named: Named = NOTHING_NAMED

    def fate(self) -> Iterator[tuple[str, Json]]:
        """What became of it, by the names that the document has for that."""
        for name in ("seen", "was", "handled", "baseline", "expected"):
            if value := getattr(self, name):
                yield name, value

    def fields_json(self) -> Object:
        """Facts stand among the rest by their own names; what is not known is left out."""
        shown: dict[str, Json] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if part.name == "facts":
                shown |= {fact.name: fact.value for fact in self.facts}
            elif value and part.name != "named":
                shown[part.name] = to_json(value)
        return shown

    @classmethod
    def of_fields(cls, value: Object) -> Evidence:
        """What `fields_json` was made of."""
        own = {f.name for f in fields(cls)} - {"facts", "walk", "named"}
        said = {key: cast(Any, inner) for key, inner in value.items() if key in own}
        walk = value.get("walk")
        columns = {k: v for k, v in value.items() if k not in own and k != "walk"}
        return cls(
            **said,
            facts=facts_of(columns),
            named=named_in(columns),
            walk=None if walk is None else from_json(ShownWalk, walk),
        )


@dataclass(frozen=True, slots=True)
class ShownPlace:
    """The place in the page tables that a finding is about."""

    root: str | None
    va: str | None
    pa: str | None
    entry: str | None
    entry_pa: str | None
    level: int | None


@dataclass(frozen=True, slots=True)
class ShownSpot:
    """A line of source; `inlined`: its code was put into the next one's function."""

    function: str
    file: str | None
    line: int | None
    inlined: bool


@dataclass(frozen=True, slots=True)
class ShownFinding:
    """A finding, told; `source` is the line that it happened at, inlined calls first, `last` the
    last stop at which it was seen, where that is another than the first, `stop`."""

    code: str
    severity: str
    stop: int
    title: str
    summary: str
    cause: str | None
    chain: tuple[str, ...]
    evidence: Evidence
    where: ShownPlace
    confidence: str
    fix: str
    see: tuple[str, ...]
    fingerprint: str
    because: tuple[str, ...]
    kind: str
    check: str | None
    source: tuple[ShownSpot, ...] = ()
    last: int | None = None


@dataclass(frozen=True, slots=True)
class ShownCheck:
    """A check's result; `reason` is None unless it was not checked."""

    name: str
    stop: int
    status: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class ShownLine:
    """A line of a serial port, counted from 1."""

    port: int
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class ShownSerial:
    """The last lines of every port, and those that hold the run's markers."""

    tail: tuple[ShownLine, ...]
    markers: tuple[ShownLine, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole document. `adapter` names what is known of the kernel; None, and not written, is
    Breenix. `recording` is where the run was recorded; not written of one that was not."""

    schema: int
    target: Object
    run: ShownRun
    stops: tuple[ShownStop, ...]
    spaces: tuple[ShownSpace, ...]
    findings: tuple[ShownFinding, ...]
    checks: tuple[ShownCheck, ...]
    serial: ShownSerial
    maps: Object
    provenance: Object
    adapter: str | None = None
    recording: Object | None = None

    def to_json(self) -> dict[str, Json]:
        """The document."""
        written = cast(dict[str, Json], to_json(self))
        for name in ("adapter", "recording"):
            if written[name] is None:
                del written[name]
        return written
