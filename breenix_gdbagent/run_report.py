"""The report of a run that ended, live or out of a file, and the snapshot that keeps both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from breenix_gdbagent.addresses import PhysAddr, counted
from breenix_gdbagent.checks import run as run_checks
from breenix_gdbagent.checks.examine import Examination, examine
from breenix_gdbagent.checks.finding import CODES, Finding
from breenix_gdbagent.errors import InputError, ReadError, SaveIncomplete, StopGone
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.own_tests import own_tests
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.document import History, RunRecord, compose, recalled
from breenix_gdbagent.report.fields import to_json
from breenix_gdbagent.report.model import Interrupts, Marker, Report, ShownFinding
from breenix_gdbagent.selection import pages_to_keep
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.version import VERSION
from breenix_gdbagent.views.stop_summary import stop_picture


def build(
    target: Mapping[str, Json],
    run: RunRecord,
    examined: Examination,
    history: History | None = None,
    extra: Sequence[Finding] = (),
    provenance: Mapping[str, Json] | None = None,
) -> Report:
    """The report of an examined stop, drawn from its kernel."""
    picture = stop_picture(examined.kernel)
    tests = own_tests(examined.kernel)
    return compose(target, run, examined, picture, history, extra, provenance, tests)


def finish(
    kernel: Kernel,
    target: Mapping[str, Json],
    run: RunRecord,
    facts: run_checks.RunFacts,
    history: History,
    examined: Examination | None = None,
    provenance: Mapping[str, Json] | None = None,
) -> Report:
    """The report document of a run that ended at `kernel`'s stop, live or out of a file. One that
    was only looked at comes to ``findings`` where there is an error, as a run does."""
    seen = examined or examine(kernel.stop, kernel)
    fault = leading_fault(seen.findings, history)
    extra = tuple(run_checks.check(kernel, facts, fault))
    document = build(target, run, seen, history, extra, provenance)
    errors = any(f.severity == "error" for f in document.findings)
    looked_at = run.outcome == RunRecord().outcome
    return with_outcome(document, "findings", 1) if looked_at and errors else document


def outcome_of(
    counted: Sequence[ShownFinding], fail_on: str, clean: str, missing: bool = False
) -> tuple[str, int]:
    """What a run with the findings `counted` came to, and the exit code of `ci`: 4 where there is
    no error but that a deadline passed. `missing`: something expected did not come."""
    codes = [f.code for f in counted if f.severity == "error"]
    if missing:
        return "findings", 1
    if codes:
        # What has an exit code of its own decides it where there is nothing else.
        code = min(CODES[one].exit for one in codes)
        return "findings" if code == 1 else next(c for c in codes if CODES[c].exit == code), code
    if fail_on == "warning" and any(f.severity == "warning" for f in counted):
        return "findings", 1
    return clean, 0


def leading_fault(findings: Sequence[Finding], history: History) -> Finding | None:
    """The fault that a panic or hang came from: the last one that was an error."""
    events = [f for f in map(_recalled, history.findings) if f is not None]
    events += [f for f in findings if f.code.kind == "event" and f.effective_severity == "error"]
    return events[-1] if events else None


def _recalled(finding: ShownFinding) -> Finding | None:
    """An event of an earlier stop that was an error, as much of it as is needed to refer to it."""
    code = CODES.get(finding.code)
    if code is None or code.kind != "event" or finding.severity != "error":
        return None
    return Finding(code, finding.fingerprint.partition("@")[2])


def save(
    path: Path,
    kernel: Kernel,
    memory: str,
    target: Mapping[str, Json],
    run: RunRecord,
    facts: run_checks.RunFacts,
    history: History,
    machine: Mapping[str, Json],
    report: Report | None = None,
) -> None:
    """Write the stop with what the report needs besides. `memory`: tables, kernel or all.
    `machine` says what would boot the same again; `report` is what was said of it, where that was.
    Raises `OutputError`, and no half file stays; `SaveIncomplete` when it is written and lacks
    memory that was asked for; `StopGone` when the guest has run since, and nothing is written."""
    _still_there(kernel.stop)
    extra = {**beside(target, run, facts, history, machine), "memory": memory}
    if report is not None and report.recording is not None:
        extra["recording"] = cast(Json, dict(report.recording))
    known = kernel.stop.unplaced or (kernel.stop.image.image if kernel.stop.image else None)
    if known is not None:
        extra["kernel"] = str(known.path.absolute())
    from breenix_gdbagent.snapshot.saving import save_snapshot

    frames = pages_to_keep(kernel, memory)
    told = None if report is None else report.to_json()
    lacking = save_snapshot(kernel.stop, path, frames=frames, extra=extra, report=told)
    if lacking is not None:
        missing, fix = "all RAM", "save a stop at which QEMU still runs"
        if lacking.pages is not None:
            missing = f"{counted(lacking.pages, 'page')} of RAM"
            fix = "save a stop that has them, or ask for less: all, kernel or tables"
        raise SaveIncomplete(path.name, missing, lacking.reason, fix)


def beside(
    target: Mapping[str, Json],
    run: RunRecord,
    facts: run_checks.RunFacts,
    history: History,
    machine: Mapping[str, Json],
) -> dict[str, Json]:
    """What a report needs besides the stop (see `document_of`), for keeping with it."""
    return {
        "agent": VERSION,
        "target": dict(target),
        "run": cast(Json, asdict(run)),
        "facts": cast(Json, asdict(facts)),
        "history": to_json(history),
        "machine": dict(machine),
    }


def _still_there(stop: Stop) -> None:
    """Raises `StopGone` for a stop of a live guest that has run since."""
    try:
        stop.memory.read(PhysAddr(0), 1)
    except StopGone:
        raise
    except ReadError:
        return  # not in RAM, or not kept: another stop's memory


def document_of(
    stop: Stop | Kernel,
    extra: Mapping[str, Any] | None,
    target: Mapping[str, Json],
    provenance: Mapping[str, Json] | None = None,
    examined: Examination | None = None,
) -> Report:
    """The report of an opened snapshot; `extra` is what `save` put beside it, None in a bare
    core. Raises `InputError` when it is not what `save` writes."""
    kernel = stop if isinstance(stop, Kernel) else Kernel(stop)
    if extra is None:
        return finish(
            kernel,
            target,
            RunRecord(seconds=kernel.stop.seconds),
            run_checks.facts_of(kernel.stop.reason),
            History(),
            examined,
            provenance,
        )
    try:
        run = dict(extra["run"])
        run["markers"] = tuple(Marker(**m) for m in run["markers"])
        if run.get("interrupts") is not None:
            run["interrupts"] = Interrupts(**run["interrupts"])
        report = finish(
            kernel,
            extra["target"],
            RunRecord(**run),
            run_checks.RunFacts(**extra["facts"]),
            recalled(extra["history"]),
            examined,
            {**(provenance or {}), **_by_hand(extra["machine"])},
        )
        return replace(report, recording=extra.get("recording"))
    except (KeyError, TypeError) as error:
        raise InputError(f"the snapshot's note lacks or garbles {error}") from error


def _by_hand(machine: Mapping[str, Any]) -> dict[str, Json]:
    """What was written into the guest by hand, of a snapshot that says so."""
    return {"written": list(machine["written"])} if "written" in machine else {}


def with_outcome(
    report: Report,
    outcome: str,
    code: int,
    missing: Sequence[str] = (),
    gone: Sequence[str] = (),
) -> Report:
    """The report with its run's outcome and exit code filled in, what was expected and did not
    come, and what of the baseline is there no more."""
    run = replace(
        report.run, outcome=outcome, exit=code, missing=tuple(missing), gone=tuple(gone)
    )
    return replace(report, run=run)
