"""The report document, schema 1: what was found, as plain JSON values in a stable order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.examine import Examination
from breenix_gdbagent.checks.finding import CODES, SEVERITY_ORDER, CheckResult, Finding
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report import maps
from breenix_gdbagent.report.backtraces import backtrace_json
from breenix_gdbagent.report.evidence import evidence_of
from breenix_gdbagent.report.sentences import words
from breenix_gdbagent.report.tables import spaces_json, walk_json
from breenix_gdbagent.report.wording.base import Words
from breenix_gdbagent.stop import SerialText
from breenix_gdbagent.x86.cpu import Cpu

SCHEMA = 1
TAIL_LINES = 40

Document = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Marker:
    """Serial text that the run waited for or knows, and when it came (seconds of guest time)."""

    text: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """How the run went. `outcome`: ``passed``, ``findings``, ``hang``, ``marker-missing``,
    ``examined`` (nothing was run). `succeeded`: the machine's success marker and when it came, of
    a run that was watched a little longer; what went wrong then went wrong after it."""

    outcome: str = "examined"
    exit: int = 0
    seconds: float = 0.0
    agent_stops: int = 0
    markers: tuple[Marker, ...] = ()
    benign_faults: int = 0
    armed: str = ""
    succeeded: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """Earlier stops of the same run, already in the document's form (memory is gone by now)."""

    stops: tuple[Document, ...] = ()
    findings: tuple[Document, ...] = ()
    checks: tuple[Document, ...] = field(default_factory=tuple)


def build(
    target: Mapping[str, Json],
    run: RunRecord,
    examined: Examination,
    history: History | None = None,
    extra: Sequence[Finding] = (),
    provenance: Mapping[str, Json] | None = None,
) -> Document:
    """The whole document. `extra` are findings about the run itself (hang, marker-missing)."""
    past = history or History()
    kernel = examined.kernel
    stop_id = len(past.stops)
    findings = sorted((*examined.findings, *extra), key=lambda f: f.sort_key)
    shown = _once([*past.findings, *(finding_json(f, stop_id) for f in findings)])
    return {
        "schema": SCHEMA,
        "target": dict(target),
        "run": {
            "outcome": run.outcome,
            "exit": run.exit,
            "seconds": round(run.seconds, 3),
            "agent_stops": run.agent_stops,
            "markers": [{"text": m.text, "seconds": round(m.seconds, 3)} for m in run.markers],
            "benign_faults": run.benign_faults,
            "missing": [],
            "gone": [],
            "succeeded": run.succeeded or None,
            "armed": run.armed,
        },
        "stops": [*past.stops, stop_json(kernel, stop_id)],
        "spaces": spaces_json(kernel),
        "findings": shown,
        "checks": [*past.checks, *(check_json(c, stop_id) for c in examined.checks)],
        "serial": serial_json(kernel.stop.serial, run.markers),
        "maps": maps.build(kernel),
        "provenance": dict(provenance or {}),
    }


def _once(findings: Sequence[Document]) -> list[Json]:
    """A state that several stops show is told once: as the last of them shows it (unless an
    earlier one weighs more, or saw the fault itself and not what its handler left of it), with the
    number of the first (where it broke)."""
    kept: dict[tuple[str, str], Document] = {}
    for finding in findings:
        where = cast(Mapping[str, Json], finding["where"])
        key = (str(finding["fingerprint"]), f"{where['root']} {where['va']} {where['entry_pa']}")
        first = kept.pop(key, finding)
        later = "seen" in cast(Mapping[str, Json], finding["evidence"])
        shown = first if later or _weight(first) < _weight(finding) else finding
        kept[key] = {**shown, "stop": first["stop"]}
    ordered = sorted(kept.values(), key=_weight)
    return list[Json](ordered)


def _weight(finding: Document) -> int:
    return SEVERITY_ORDER[str(finding["severity"])]


def stop_json(kernel: Kernel, stop_id: int) -> Document:
    """One stop: why, and every CPU."""
    stop = kernel.stop
    reason = stop.reason
    error_code = None
    cr2 = None
    try:
        event = kernel.event
    except ReadError:
        event = None
    if event is not None:
        error_code = event.error_code
        cr2 = stop.cpu.get("cr2") if event.vector == 14 else None
    return {
        "id": stop_id,
        "seconds": round(stop.seconds, 3),
        "reason": reason.kind,
        "vector": reason.vector,
        "error_code": _hex(error_code),
        "cr2": _hex(cr2),
        "text": reason.text,
        "serial": [
            {"port": port, "line": len(stop.serial.port(port).splitlines())}
            for port in stop.serial.ports
        ],
        "cpus": [_cpu_json(kernel, cpu) for cpu in stop.cpus],
    }


def _cpu_json(kernel: Kernel, cpu: Cpu) -> Document:
    rip = cpu.get("rip")
    space = kernel.space_of(cpu.root) if cpu.paging is not None else None
    return {
        "id": cpu.index,
        "rip": _hex(rip),
        "rsp": _hex(cpu.get("rsp")),
        "cr0": _hex(cpu.get("cr0")),
        "cr2": _hex(cpu.get("cr2")),
        "cr3": _hex(cpu.cr3),
        "cr4": _hex(cpu.get("cr4")),
        "efer": _hex(cpu.get("efer")),
        "cpl": cpu.cpl,
        "symbol": kernel.symbol(rip) if rip is not None else None,
        "process": _process(space),
        "thread": kernel.thread_name(cpu),
        "backtrace": backtrace_json(kernel, cpu),
    }


def _process(space: Space | None) -> str | None:
    """The space as people call it; None where nobody has a name for it."""
    if space is None or space.role in ("master", "boot"):
        return None if space is None else space.role
    return space.label if space.pid is not None and space.name is not None else space.name


def finding_json(finding: Finding, stop_id: int) -> Document:
    """One finding in the document's form."""
    where, said = finding.where, words(finding)
    return {
        "code": finding.code.name,
        "severity": finding.weight,
        "stop": stop_id,
        "title": finding.code.title,
        "summary": said.summary,
        "cause": finding.cause,
        "chain": list(finding.chain),
        "evidence": _evidence(finding, said),
        "where": {
            "root": _hex(where.root),
            "va": _hex(where.va),
            "pa": _hex(where.pa),
            "entry": _hex(where.entry),
            "entry_pa": _hex(where.entry_pa),
            "level": where.level,
        },
        "confidence": finding.confidence,
        "fix": finding.fix,
        "see": list(finding.code.see),
        "fingerprint": finding.fingerprint,
        "because": list(dict.fromkeys(f.fingerprint for f in finding.because)),
        "kind": finding.code.kind,
        "check": finding.check,
    }


def recalled(finding: Document) -> Document:
    """A finding out of a snapshot, with what those that were written earlier do not have."""
    code = CODES.get(str(finding["code"]))
    kind = "state" if code is None else code.kind
    known: Document = {"because": [], "kind": kind, "check": "faults" if kind == "event" else None}
    return {**finding, **{key: value for key, value in known.items() if key not in finding}}


def _evidence(finding: Finding, said: Words) -> dict[str, Json]:
    """What is told in a paragraph, the facts, what became of it, and the walk of its place."""
    told = {"explanation": said.explanation, "walk_text": said.picture}
    shown: dict[str, Json] = {key: text for key, text in told.items() if text}
    shown |= evidence_of(finding.facts)
    if finding.inside_handler:
        shown["seen"] = "inside its handler"
    if finding.survived is not None:
        shown |= {"was": finding.survived.was.name, "handled": finding.survived.how}
    if finding.walk is not None:
        shown["walk"] = walk_json(finding.walk)
    return shown


def check_json(check: CheckResult, stop_id: int) -> Document:
    """One check's result; `reason` is null unless it was not checked."""
    return {
        "name": check.name,
        "stop": stop_id,
        "status": check.status,
        "reason": check.reason or None,
    }


def serial_json(serial: SerialText, markers: Sequence[Marker]) -> Document:
    """The last lines of every port, and which line numbers hold the markers."""
    tail: list[Json] = []
    placed: list[Json] = []
    for port in serial.ports:
        lines = serial.port(port).splitlines()
        first = max(0, len(lines) - TAIL_LINES)
        tail += [{"port": port, "line": n + 1, "text": lines[n]} for n in range(first, len(lines))]
        placed += [
            {"port": port, "line": n + 1, "text": line}
            for n, line in enumerate(lines)
            if any(m.text and m.text in line for m in markers)
        ]
    return {"tail": tail, "markers": placed}


def _hex(value: int | None) -> str | None:
    return None if value is None else hex64(value)
