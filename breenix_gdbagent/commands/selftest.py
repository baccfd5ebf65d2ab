"""``selftest``: the page-fault matrix on this machine's QEMU."""

from __future__ import annotations

import sys
import time

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.selftest.matrix import GROUPS, KINDS, RINGS, SIZES
from breenix_gdbagent.selftest.running import Result, Tally
from breenix_gdbagent.selftest.running import run as run_matrix

SHOWN = 10
DEVIATION = "a reserved bit: this emulator pushes the code with P clear (SDM 4.7 has it set)"


def run(name: str, argv: list[str]) -> int:
    """``selftest [--json]``; exit 1 when the CPU did what the tables do not say."""
    options = build(name).parse_args(argv)
    started = time.monotonic()
    tallies = run_matrix(_progress if sys.stderr.isatty() else lambda done, of: None)
    seconds = time.monotonic() - started
    if options.json:
        print_json(_document(tallies, seconds))
    else:
        _print(tallies, seconds)
    return int(any(t.differ for t in tallies))


def build(name: str) -> Parser:
    """The options of `selftest`."""
    parser = Parser("breenix-gdbagent selftest")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def _progress(done: int, of: int) -> None:
    print(f"\r{done} of {of} cases", end="", file=sys.stderr, flush=True)


def _document(tallies: list[Tally], seconds: float) -> dict[str, Json]:
    return {
        "cases": sum(t.cases for t in tallies),
        "seconds": round(seconds, 3),
        "groups": [
            {
                "name": t.group.name,
                "cases": t.cases,
                "agree": t.agree,
                "deviation": t.deviation,
                "differ": len(t.differ),
            }
            for t in tallies
        ],
        "deviations": {DEVIATION: sum(t.deviation for t in tallies)},
        "differ": [_told(r) for t in tallies for r in t.differ],
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


def _print(tallies: list[Tally], seconds: float) -> None:
    cases = sum(t.cases for t in tallies)
    print(
        f"{{{', '.join(SIZES.values())}}} pages x W, U, NX at each level, not present, reserved, "
        f"not canonical;\neach {', '.join(KINDS)} in ring {' and '.join(map(str, RINGS))}, under"
    )
    width = len(GROUPS[0].name)
    print(f"{'control bits':<{width}} {'cases':>7} {'agree':>7} {'deviate':>8} {'differ':>7}")
    for t in tallies:
        print(
            f"{t.group.name:<{width}} {t.cases:>7} {t.agree:>7} {t.deviation:>8} {len(t.differ):>7}"
        )
    print(f"{cases} accesses in {seconds:.1f} s, each predicted from the tables first")
    if any(t.deviation for t in tallies):
        print(f"known deviation: {DEVIATION}")
    for result in [r for t in tallies for r in t.differ][:SHOWN]:
        told = _told(result)
        print(f"DIFFERS {told['case']}: predicted {told['predicted']}, saw {told['observed']}")
