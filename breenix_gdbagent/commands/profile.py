"""``profile``: where the instructions of a recorded run went, by function."""

from __future__ import annotations

import argparse
from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.timeline.player import Player
from breenix_gdbagent.timeline.profile import profile

DEFAULT_SAMPLES = 1000
MOST_SAMPLES = 100_000
SHOWN = 30


def run(name: str, argv: list[str]) -> int:
    """``profile DIR``."""
    options = build(name).parse_args(argv)
    with Player(options.recording, options.kernel) as player:
        found = profile(player, options.samples)
    total = sum(found.values())
    rows = sorted(found.items(), key=lambda row: (-row[1], row[0]))
    if options.json:
        print_json([{"function": name, "samples": n, "share": n / total} for name, n in rows])
        return 0
    for name, n in rows[:SHOWN]:
        print(f"{100 * n / total:6.1f} %  {name}")
    if len(rows) > SHOWN:
        print(f"          and {len(rows) - SHOWN} more functions")
    print(f"of {total} moments, evenly spread over the instructions that ran")
    return 0


def build(name: str) -> Parser:
    """The options of `profile`."""
    parser = Parser("breenix-gdbagent profile")
    parser.add_argument("recording", type=Path, metavar="DIR", help="what `record -o DIR` made")
    parser.add_argument(
        "--samples", type=samples, default=DEFAULT_SAMPLES, metavar="N", help="moments (1000)"
    )
    parser.add_argument("--kernel", type=Path, metavar="ELF", help="the ELF that was recorded")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def samples(text: str) -> int:
    """A number of moments, for `argparse`."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_SAMPLES:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of moments: 1 to {MOST_SAMPLES}")
    return int(text)
