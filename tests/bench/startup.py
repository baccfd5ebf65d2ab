"""What the tricks of `startup.py` gain: whole processes with all of them against all but one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.harness import Row, Timed, judged, pairs, process_cpu

SNAPSHOT = str(Path(__file__).parents[2] / "fixtures" / "snapshots" / "version-1-tables.core")
WALK = ("pt", "walk", "0x1000", "--snapshot", SNAPSHOT)
REPORT = ("report", SNAPSHOT)

WITHOUT = {
    "circles looked for rarely": ("startup.collect_rarely = lambda: None", REPORT),
    "methods shared": ("startup.share_methods = lambda: None", REPORT),
    "modules put off": ("startup.put_off = lambda: None", WALK),
    "the process ended at once": ("startup.end_at_once = sys.exit", REPORT),
}
"""What takes a trick away, and the command that shows its gain."""


def _started(change: str, arguments: tuple[str, ...]) -> Timed:
    code = (
        "import sys; from breenix_gdbagent import __main__, startup; "
        f"{change}; sys.argv[0] = 'breenix-gdbagent'; __main__.process()"
    )
    return process_cpu(sys.executable, "-c", code, *arguments)


def rows() -> Iterator[Row]:
    """CPU time of the command with every trick, against without one of them."""
    for name, (change, arguments) in WITHOUT.items():
        both = pairs(_started("pass", arguments), _started(change, arguments))
        yield judged(f"start: {name}", both, "without it", "ms", "<=", 1.0)
