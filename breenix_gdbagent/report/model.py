"""The report document, schema 1, as values: what every output format reads.

Addresses, registers and entries are texts ``0x...`` here as they are in the JSON, which `to_json`
makes of these classes field by field, in their order, and `from_json` reads back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.shown_facts import Fact, Named, facts_of, named_in

Object = Mapping[str, Json]
T = TypeVar("T")
OMITTED = {"omitted": True}
"""Of a field that the document has only where it is not what it is by default."""


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
    """A CPU at a stop; `backtrace` as `bt --json` has it, by files' short names."""

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


NO_TRACE: Object = {"frames": [], "left_out": 0, "end": ""}


@dataclass(frozen=True, slots=True)
class ShownStop:
    """Why the guest was stopped, and every CPU."""

    id: int
    seconds: float
    reason: str
    vector: int | None
    error_code: str | None
    cr2: str | None
    text: str = ""
    serial: tuple[PortEnd, ...] = ()
    cpus: tuple[ShownCpu, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownSpace:
    """A root, see `Space`."""

    root: str
    role: str
    live: bool | None
    pid: int | None
    name: str | None
    source: str


@dataclass(frozen=True, slots=True)
class ShownLevel:
    """One entry of a walk."""

    level: int
    entry_pa: str
    entry: str
    flags: tuple[str, ...]
    index: int | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True, slots=True)
class ShownRights:
    """What a walk permits over all its levels; at each level of privilege where they have rights
    of their own."""

    w: bool
    u: bool
    nx: bool
    el0: str = field(default="", metadata=OMITTED)
    el1: str = field(default="", metadata=OMITTED)


@dataclass(frozen=True, slots=True)
class ShownWalk:
    """One answer of `pt walk --json` (contract, "Page tables"). `format` is that of tables which
    are not x86-64's."""

    va: str
    root: str
    pa: str | None
    size: int | None
    levels: tuple[ShownLevel, ...]
    effective: ShownRights | None
    stopped_at: int | None
    reason: str | None
    format: str = field(default="", metadata=OMITTED)


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


def shown_walk(walk: Walk) -> ShownWalk:
    """A walk as reports have it."""
    may = walk.effective
    return ShownWalk(
        hex64(walk.va),
        hex64(walk.root),
        None if walk.pa is None else hex64(walk.pa),
        walk.size,
        tuple(
            ShownLevel(e.level, hex64(e.entry_pa), hex64(e.raw), tuple(e.flags), e.index)
            for e in walk.entries
        ),
        None if may is None else ShownRights(*may),
        walk.stopped_at,
        walk.reason,
        walk.format,
    )


def to_json(value: object) -> Json:
    """A value of this module as JSON."""
    if isinstance(value, Evidence):
        return _evidence_json(value)
    if is_dataclass(value):
        shown = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: to_json(v) for f, v in shown if not f.metadata or v != f.default}
    if isinstance(value, tuple):
        return [to_json(inner) for inner in value]
    return cast(Json, value)


def _evidence_json(evidence: Evidence) -> Json:
    """Facts stand among the rest by their own names; what is not known is left out."""
    shown: dict[str, Json] = {}
    for part in fields(evidence):
        value = getattr(evidence, part.name)
        if part.name == "facts":
            shown |= {fact.name: fact.value for fact in evidence.facts}
        elif value and part.name != "named":
            shown[part.name] = to_json(value)
    return shown


def from_json(kind: type[T], value: Json) -> T:
    """What `to_json` was given. Raises `KeyError` for a field that is not there and has to be,
    `TypeError` for another shape."""
    return cast(T, _read(kind, value))


def _read(kind: Any, value: Json) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        (kind,) = [a for a in get_args(kind) if a is not NoneType]
        return None if value is None else _read(kind, value)
    if origin is tuple:
        inner = get_args(kind)[0]
        return tuple(_read(inner, one) for one in cast(Sequence[Json], value))
    if kind is Evidence:
        return _evidence(cast(Object, value))
    return _of_fields(kind, cast(Object, value)) if is_dataclass(kind) else value


def _of_fields(kind: Any, value: Object) -> Any:
    hints = _hints(kind)
    found = {}
    for part in fields(kind):
        needed = part.default is MISSING and part.default_factory is MISSING
        if needed or part.name in value:
            found[part.name] = _read(hints[part.name], value[part.name])
    return kind(**found)


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind)
    return _HINTS[kind]


def _evidence(value: Object) -> Evidence:
    own = {f.name for f in fields(Evidence)} - {"facts", "walk", "named"}
    said = {key: cast(Any, inner) for key, inner in value.items() if key in own}
    walk = value.get("walk")
    columns = {k: v for k, v in value.items() if k not in own and k != "walk"}
    return Evidence(
        **said,
        facts=facts_of(columns),
        named=named_in(columns),
        walk=None if walk is None else from_json(ShownWalk, walk),
    )
