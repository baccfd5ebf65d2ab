"""``python -m tests.bench [--peers DIR] [GROUP...]``: the table, and build/bench.json."""

from __future__ import annotations

import argparse
import compileall
from pathlib import Path

import breenix_gdbagent
from tests.bench import (
    agents,
    checkpoints,
    generated,
    live,
    offline,
    peers,
    recording,
    searching,
    shell,
    spaces,
    startup,
)
from tests.bench.harness import report

OUT = Path("build") / "bench.json"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default="", help="where checkouts of gdb-pt-dump and gef lie")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="only these files of the bench")
    options = parser.parse_args()
    where = Path(options.peers) if options.peers else None
    # What pip installs is compiled; a checkout that was edited, or where Python may not write, is
    # not, and would be compiled again by every start that is measured.
    compileall.compile_dir(Path(breenix_gdbagent.__file__).parent, quiet=1)
    groups = {
        "live": live.rows,
        "checkpoints": checkpoints.rows,
        "offline": offline.rows,
        "spaces": spaces.rows,
        "searching": searching.rows,
        "startup": startup.rows,
        "shell": shell.rows,
        "recording": recording.rows,
        "peers": lambda: peers.rows(where),
        "generated": generated.rows,
        "agents": agents.rows,
    }
    unknown = sorted(set(options.groups) - set(groups))
    if unknown:
        parser.error(f"no group {', '.join(unknown)}: there are {', '.join(groups)}")
    wanted = options.groups or groups
    report([row for name in wanted for row in groups[name]()], OUT)


main()
