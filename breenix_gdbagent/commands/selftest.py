"""``selftest``: the page-fault matrix on this machine's QEMU."""

from __future__ import annotations

import sys
import time
from collections import Counter

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.selftest.matrix import GROUPS
from breenix_gdbagent.selftest.running import Result
from breenix_gdbagent.selftest.running import run as run_matrix

SHOWN = 10
DEVIATION = "a reserved bit: this emulator pushes the code with P clear (SDM 4.7 has it set)"


def run(name: str, argv: list[str]) -> int:
    """``selftest [--json]``; exit 1 when the CPU did what the tables do not say."""
    parser = Parser("breenix-gdbagent selftest", description="the page-fault matrix on this QEMU")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    started = time.monotonic()
    results = run_matrix(_progress if sys.stderr.isatty() else lambda done, of: None)
    seconds = time.monotonic() - started
    differ = [r for r in results if r.compared == "differ"]
    if options.json:
        print_json(_document(results, seconds))
    else:
        _print(results, differ, seconds)
    return int(bool(differ))


def _progress(done: int, of: int) -> None:
    print(f"\r{done} of {of} cases", end="", file=sys.stderr, flush=True)


def _document(results: list[Result], seconds: float) -> dict[str, Json]:
    return {
        "cases": len(results),
        "seconds": round(seconds, 3),
        "groups": [
            {"name": g.name, **Counter(r.compared for r in results if r.case.group is g)}
            for g in GROUPS
        ],
        "deviations": {DEVIATION: sum(1 for r in results if r.compared == "deviation")},
        "differ": [_told(r) for r in results if r.compared == "differ"],
    }


def _told(result: Result) -> dict[str, Json]:
    code, pushed = result.case.predicted.error_code, result.outcome.error_code
    return {
        "case": result.case.name,
        "va": hex64(result.case.mapping.va),
        "predicted": {
            "vector": result.case.predicted.vector,
            "error_code": None if code is None else hex64(code),
        },
        "observed": {
            "vector": result.outcome.vector,
            "error_code": None if pushed is None else hex64(pushed),
        },
    }


def _print(results: list[Result], differ: list[Result], seconds: float) -> None:
    print(f"{'group':<16} {'cases':>6} {'agree':>6} {'deviate':>8} {'differ':>7}")
    for group in GROUPS:
        counts = Counter(r.compared for r in results if r.case.group is group)
        print(
            f"{group.name:<16} {counts.total():>6} {counts['agree']:>6} "
            f"{counts['deviation']:>8} {counts['differ']:>7}"
        )
    print(f"{len(results)} accesses in {seconds:.1f} s, each predicted from the tables first")
    if any(r.compared == "deviation" for r in results):
        print(f"known deviation: {DEVIATION}")
    for result in differ[:SHOWN]:
        told = _told(result)
        print(f"DIFFERS {told['case']}: predicted {told['predicted']}, saw {told['observed']}")
