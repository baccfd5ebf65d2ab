"""What a run is allowed or required to show: ``--expect`` and ``--baseline``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.commands.output import write_whole
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.report.causes import line_of_causes
from breenix_gdbagent.report.model import Report, ShownFinding

BASELINE_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Expectation:
    """A fault that must come: its code, and the process it strikes (None: any)."""

    code: str
    process: str | None

    def matches(self, finding: ShownFinding) -> bool:
        """A fault that the kernel survived keeps its code as what it ``was``."""
        if self.code not in (finding.code, finding.cause, finding.evidence.was):
            return False
        strikes = finding.fingerprint.rpartition("@")[2]
        named = finding.evidence.named.processes
        return self.process is None or self.process == strikes or self.process in named

    def __str__(self) -> str:
        return f"{self.code}@{self.process}" if self.process else self.code


def parse_expectation(text: str) -> Expectation:
    """``CODE[@process]``. Raises `InputError` for a code that does not exist."""
    code, at, process = text.partition("@")
    if code not in all_codes():
        import difflib

        near = difflib.get_close_matches(code, all_codes(), 1)
        raise InputError(
            f"--expect {code}: no such finding code",
            fix=f"did you mean {near[0]}?"
            if near
            else "list them: breenix-gdbagent explain --list",
        )
    if at and not process:
        raise InputError(
            f"--expect {text}: no process after the @",
            fix=f"write {code}@NAME, or {code} for any process",
        )
    return Expectation(code, process or None)


def add_expectation_options(parser: argparse.ArgumentParser) -> None:
    """--expect, --baseline, --write-baseline."""
    parser.add_argument(
        "--expect", action="append", default=[], metavar="CODE[@PROCESS]",
        help="that finding has to come, and does not count",
    )  # fmt: skip
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="known findings do not count")
    parser.add_argument(
        "--write-baseline", type=Path, metavar="FILE", help="write the findings as known ones"
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """The report with expected findings marked, and what is wrong or worth saying."""

    report: Report
    counted: tuple[ShownFinding, ...]
    missing: tuple[str, ...]
    gone: tuple[str, ...]


def judge(report: Report, expected: Sequence[Expectation], known: Sequence[str]) -> Judged:
    """Mark expected findings (severity info) and those of the baseline, with what follows from
    them, and leave out the latter of what counts."""
    came: set[Expectation] = set()
    findings: list[ShownFinding] = []
    for finding in report.findings:
        match = next((e for e in expected if e.matches(finding)), None)
        if match is None:
            line = (finding, *line_of_causes(finding, report.findings))
            by_cause = any(f.fingerprint in known for f in line)
            tolerated = by_cause and finding.severity != "info"
            evidence = replace(finding.evidence, baseline=tolerated)
            findings.append(replace(finding, evidence=evidence))
            continue
        came.add(match)
        evidence = replace(finding.evidence, expected=True)
        findings.append(replace(finding, severity="info", evidence=evidence))
    prints = {f.fingerprint for f in findings}
    return Judged(
        replace(report, findings=tuple(findings)),
        tuple(f for f in findings if f.fingerprint not in known and not f.evidence.baseline),
        tuple(str(e) for e in expected if e not in came),
        tuple(k for k in known if k not in prints),
    )


def read_baseline(path: Path | None) -> tuple[str, ...]:
    """Known fingerprints. Raises `InputError` for a file that is no baseline."""
    if path is None:
        return ()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != BASELINE_SCHEMA:
            raise InputError(
                f"{path} is a baseline of schema {data['schema']}, this agent reads "
                f"{BASELINE_SCHEMA}",
                fix="write it anew with --write-baseline",
            )
        return tuple(str(entry) for entry in data["fingerprints"])
    except OSError as error:
        raise InputError(f"cannot read the baseline {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is no baseline of ours", fix="write one with --write-baseline FILE"
        ) from error


def write_baseline(path: Path, report: Report) -> None:
    """All findings of severity error and warning, as known from now on."""
    prints = sorted({f.fingerprint for f in report.findings if f.severity != "info"})
    write_whole(
        path, json.dumps({"schema": BASELINE_SCHEMA, "fingerprints": prints}, indent=1) + "\n"
    )
