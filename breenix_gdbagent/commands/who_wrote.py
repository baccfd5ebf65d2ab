"""``who-wrote``: every change of a physical place over a recording."""

from __future__ import annotations

import argparse
from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.report.writes import writers_json, writers_text
from breenix_gdbagent.timeline.player import Player
from breenix_gdbagent.timeline.writers import resolve, writers

MOST = 4096


def run(name: str, argv: list[str]) -> int:
    """``who-wrote DIR PA|VA|'entry VA'``: 1 where nothing wrote it."""
    options = build(name).parse_args(argv)
    with Player(options.recording, options.kernel) as player:
        moment = player.moment(options.at or "end")
        found = writers(player, resolve(player, " ".join(options.place), moment), options.length)
    if options.json:
        print_json(writers_json(found))
    else:
        print(writers_text(found))
    return 0 if found.writes else 1


def build(name: str) -> Parser:
    """The options of `who-wrote`."""
    parser = Parser("breenix-gdbagent who-wrote")
    parser.add_argument("recording", type=Path, metavar="DIR", help="what `record -o DIR` made")
    parser.add_argument(
        "place", nargs="+", metavar="PA|VA|entry VA",
        help="an address; `entry VA`: the page-table entry that leads there",
    )  # fmt: skip
    parser.add_argument("--length", type=length, default=8, metavar="N", help="bytes (8)")
    parser.add_argument("--at", metavar="ICOUNT|MARKER|end", help="when VA leads there (end)")
    parser.add_argument("--kernel", type=Path, metavar="ELF", help="the ELF that was recorded")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def length(text: str) -> int:
    """A number of bytes, for `argparse`."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes: 1 to {MOST}")
    return int(text)
