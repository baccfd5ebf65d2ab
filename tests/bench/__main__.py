"""``python -m tests.bench [--peers DIR]``: the table, and build/bench.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.bench import generated, live, offline, peers, shell, spaces
from tests.bench.harness import report

OUT = Path("build") / "bench.json"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default="", help="where checkouts of gdb-pt-dump and gef lie")
    options = parser.parse_args()
    where = Path(options.peers) if options.peers else None
    rows = [
        *live.rows(),
        *offline.rows(),
        *spaces.rows(),
        *shell.rows(),
        *peers.rows(where),
        *generated.rows(),
    ]
    report(rows, OUT)


main()
