"""A report made of what was examined: see `report/model.py` for what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.checks.examine import Examination
from breenix_gdbagent.checks.finding import CODES, SEVERITY_ORDER, CheckResult, Finding
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.adapter import Adapter
from breenix_gdbagent.kernel.adapters import BREENIX
from breenix_gdbagent.kernel.own_tests import Suite
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.report import maps
from breenix_gdbagent.report.advice import ASSUMED, said_of
from breenix_gdbagent.report.backtraces import short
from breenix_gdbagent.report.evidence import evidence_of
from breenix_gdbagent.report.fields import from_json
from breenix_gdbagent.report.model import (
    Evidence,
    Interrupts,
    Marker,
    Object,
    PortEnd,
    Report,
    ShownCheck,
    ShownCpu,
    ShownFinding,
    ShownLine,
    ShownPlace,
    ShownRun,
    ShownSerial,
    ShownSpot,
    ShownStop,
    ShownSuite,
)
from breenix_gdbagent.report.names import trace_json
from breenix_gdbagent.report.sentences import words
from breenix_gdbagent.report.shown_facts import facts_of, named_in
from breenix_gdbagent.report.shown_walk import shown_walk
from breenix_gdbagent.report.story import objects
from breenix_gdbagent.report.tables import shown_space
from breenix_gdbagent.report.wording.base import Words
from breenix_gdbagent.report.wording.reasons import reason_words
from breenix_gdbagent.stop import SerialText, Stop
from breenix_gdbagent.views.call_trace import CallTrace
from breenix_gdbagent.views.stop_summary import CpuSummary, StopPicture, StopSummary

SCHEMA = 1
TAIL_LINES = 40
MOST_FRAMES = 64
KEPT = ("pc", "name", "offset", "how", "ring", "vector", "level", "by")
"""What a report has of each frame of `bt --json`."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """How the run went. `outcome`: ``passed``, ``findings``, ``hang``, ``marker-missing``,
    ``examined`` (nothing was run). `succeeded`: the machine's success marker and when it came, of
    a run that was watched `watched` seconds longer; what went wrong then went wrong after it.
    `counted`: the guest's clock stood still with it at our stops (an instruction counter).
    `interrupts`: what comparing registers over interrupts saw."""

    outcome: str = "examined"
    exit: int = 0
    seconds: float = 0.0
    agent_stops: int = 0
    markers: tuple[Marker, ...] = ()
    benign_faults: int = 0
    armed: str = ""
    succeeded: str = ""
    watched: float = 0.0
    counted: bool = True
    interrupts: Interrupts | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Earlier stops of the same run, already told (their memory is gone by now)."""

    stops: tuple[ShownStop, ...] = ()
    findings: tuple[ShownFinding, ...] = ()
    checks: tuple[ShownCheck, ...] = ()


def compose(
    target: Mapping[str, Json],
    run: RunRecord,
    examined: Examination,
    picture: StopPicture,
    history: History | None = None,
    extra: Sequence[Finding] = (),
    provenance: Mapping[str, Json] | None = None,
    tests: Sequence[Suite] = (),
) -> Report:
    """The whole report of a stop: what the checks said of it, and its `picture`. `extra` are
    findings about the run itself (hang, marker-missing), `tests` what the kernel's own came to."""
    past, adapter = history or History(), examined.kernel.adapter
    stop_id = len(past.stops)
    findings = sorted((*examined.findings, *extra), key=lambda f: f.sort_key)
    return Report(
        schema=SCHEMA,
        target=dict(target),
        run=_run(run, tests),
        stops=(*past.stops, shown_stop(picture.summary, stop_id)),
        spaces=tuple(shown_space(space) for space in picture.spaces),
        findings=_once([*past.findings, *(shown_finding(f, stop_id, adapter) for f in findings)]),
        checks=(*past.checks, *(shown_check(c, stop_id) for c in examined.checks)),
        serial=_serial(picture.summary.stop.serial, run.markers),
        maps=maps.build(picture.maps),
        provenance=dict(provenance or {}),
        adapter=None if adapter.name == ASSUMED else adapter.name,
    )


def _run(run: RunRecord, tests: Sequence[Suite]) -> ShownRun:
    return ShownRun(
        run.outcome,
        run.exit,
        round(run.seconds, 3),
        run.agent_stops,
        tuple(Marker(m.text, round(m.seconds, 3)) for m in run.markers),
        run.benign_faults,
        succeeded=run.succeeded or None,
        watched=round(run.watched, 3),
        counted=run.counted,
        armed=run.armed,
        tests=tuple(
            ShownSuite(t.name, t.passed, t.failed, t.skipped, t.failures, t.unfinished)
            for t in tests
        ),
        interrupts=run.interrupts,
    )


def _once(findings: Sequence[ShownFinding]) -> tuple[ShownFinding, ...]:
    """A state that several stops show is told once: as the last of them shows it (unless an
    earlier one weighs more, or saw the fault itself and not what its handler left of it), with the
    number of the first (where it broke) and of the last."""
    kept: dict[tuple[str, str], ShownFinding] = {}
    for finding in findings:
        where = finding.where
        key = (finding.fingerprint, f"{where.root} {where.va} {where.entry_pa}")
        first = kept.pop(key, finding)
        later = bool(finding.evidence.seen)
        shown = first if later or _rank(first) < _rank(finding) else finding
        last = finding.stop if finding is not first else first.last
        kept[key] = replace(shown, stop=first.stop, last=last if last != first.stop else None)
    return tuple(sorted(kept.values(), key=_rank))


def _rank(finding: ShownFinding) -> int:
    return SEVERITY_ORDER[finding.severity]


def shown_stop(summary: StopSummary, stop_id: int) -> ShownStop:
    """One stop: why, and every CPU."""
    stop = summary.stop
    return ShownStop(
        id=stop_id,
        seconds=round(stop.seconds, 3),
        reason=stop.reason.kind,
        vector=stop.reason.vector,
        error_code=_hex(summary.error_code),
        cr2=_hex(summary.cr2),
        text=stop.reason.text,
        serial=tuple(
            PortEnd(port, len(stop.serial.port(port).splitlines())) for port in stop.serial.ports
        ),
        cpus=tuple(_cpu(one) for one in summary.cpus),
        vector_name=_vector_name(stop),
    )


def _vector_name(stop: Stop) -> str:
    vector = stop.reason.vector
    if vector is None or stop.arch.descriptor_tables:
        return ""
    return stop.arch.vectors.get(vector, "")


def _cpu(one: CpuSummary) -> ShownCpu:
    cpu = one.cpu
    return ShownCpu(
        id=cpu.index,
        rip=_hex(cpu.at),
        rsp=_hex(cpu.stack),
        cr0=_hex(cpu.get("cr0")),
        cr2=_hex(cpu.get("cr2")),
        cr3=_hex(cpu.cr3),
        cr4=_hex(cpu.get("cr4")),
        efer=_hex(cpu.get("efer")),
        cpl=cpu.cpl,
        symbol=one.symbol,
        process=None if _is_visited(one) else _process(one.space),
        space=_process(one.space) if _is_visited(one) else None,
        thread=one.thread,
        backtrace=_backtrace(one.trace),
        privilege="" if cpu.arch.descriptor_tables else cpu.privilege,
        system=_system(cpu),
    )


def _system(cpu: Cpu) -> dict[str, Json] | None:
    """The system registers that are known, of an architecture that has such."""
    known = ((name, cpu.get(name)) for name in cpu.arch.system_registers)
    return {name: hex64(value) for name, value in known if value is not None} or None


def _is_visited(one: CpuSummary) -> bool:
    """Whether the space is a process's that the CPU's thread is not of."""
    return one.visits and one.space is not None and one.space.role == "process"


def _backtrace(found: CallTrace) -> dict[str, Json]:
    """``{frames, left_out, end}`` of one CPU, innermost first: the frames of `bt --json` with
    equal ones in a row (recursion) told once with their number, and files by their short names.
    Where there are none `end` says why."""
    walked = trace_json(found)
    frames = objects(walked["frames"])
    groups = [list(same) for _, same in groupby(frames, key=lambda f: (f["pc"], f["vector"]))]
    shown: list[Json] = [
        {
            **{key: same[0][key] for key in KEPT if key in same[0]},
            "times": len(same),
            "lines": [{**spot, "file": short(spot["file"])} for spot in objects(same[0]["lines"])],
        }
        for same in groups[:MOST_FRAMES]
    ]
    left = sum(map(len, groups[MOST_FRAMES:]))
    return {"frames": shown, "left_out": left, "end": walked["end"]}


def _process(space: Space | None) -> str | None:
    """The space as people call it; None where nobody has a name for it."""
    if space is None or space.role in ("master", "boot"):
        return None if space is None else space.role
    return space.label if space.pid is not None and space.name is not None else space.name


def shown_finding(finding: Finding, stop_id: int, adapter: Adapter = BREENIX) -> ShownFinding:
    """One finding, told for the kernel of `adapter`."""
    where, said = finding.where, words(finding)
    mend = finding.mend or finding.code
    return ShownFinding(
        code=finding.code.name,
        severity=finding.effective_severity,
        stop=stop_id,
        title=finding.code.title,
        summary=said.summary,
        cause=finding.cause,
        chain=finding.chain,
        evidence=_evidence(finding, said),
        where=ShownPlace(
            _hex(where.root),
            _hex(where.va),
            _hex(where.pa),
            _hex(where.entry),
            _hex(where.entry_pa),
            where.level,
        ),
        confidence=finding.confidence,
        fix=finding.advice or said_of(mend, adapter).mend,
        see=adapter.advice_for(finding.code.name).see,
        fingerprint=finding.fingerprint,
        because=tuple(dict.fromkeys(f.fingerprint for f in finding.because)),
        kind=finding.code.kind,
        check=finding.check,
        source=tuple(
            ShownSpot(s.function, short(s.file), s.line, s.inlined) for s in finding.source
        ),
    )


def _evidence(finding: Finding, said: Words) -> Evidence:
    survived, columns = finding.survived, evidence_of(finding.facts)
    return Evidence(
        explanation=said.explanation,
        walk_text=said.picture,
        facts=facts_of(columns),
        named=named_in(columns),
        seen="inside its handler" if finding.inside_handler else "",
        was="" if survived is None else survived.was.name,
        handled="" if survived is None else survived.how,
        walk=None if finding.walk is None else shown_walk(finding.walk),
    )


def recalled(history: Mapping[str, Any]) -> History:
    """What a snapshot keeps of earlier stops. Findings of older agents lack what is known by their
    code. Raises `KeyError`, `TypeError` for what is no history."""
    return History(
        tuple(from_json(ShownStop, stop) for stop in history["stops"]),
        tuple(from_json(ShownFinding, {**_by_code(f), **f}) for f in history["findings"]),
        tuple(from_json(ShownCheck, check) for check in history["checks"]),
    )


def _by_code(finding: Object) -> dict[str, Json]:
    code = CODES.get(str(finding["code"]))
    kind = "state" if code is None else code.kind
    return {"because": [], "kind": kind, "check": "faults" if kind == "event" else None}


def shown_check(check: CheckResult, stop_id: int) -> ShownCheck:
    """One check's result."""
    reason = None if check.reason is None else reason_words(check.reason)
    return ShownCheck(check.name, stop_id, check.status, reason)


def _serial(serial: SerialText, markers: Sequence[Marker]) -> ShownSerial:
    """The last lines of every port, and which line numbers hold the markers."""
    tail: list[ShownLine] = []
    placed: list[ShownLine] = []
    for port in serial.ports:
        lines = serial.port(port).splitlines()
        first = max(0, len(lines) - TAIL_LINES)
        tail += [ShownLine(port, n + 1, lines[n]) for n in range(first, len(lines))]
        placed += [
            ShownLine(port, n + 1, line)
            for n, line in enumerate(lines)
            if any(m.text and m.text in line for m in markers)
        ]
    return ShownSerial(tuple(tail), tuple(placed))


def _hex(value: int | None) -> str | None:
    return None if value is None else hex64(value)
