"""``last``: the writes of a variable over a recording, the last one first."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.report.writes import write_json, write_rows
from breenix_gdbagent.timeline.player import Player
from breenix_gdbagent.timeline.travel import Traveller, debugger_of
from breenix_gdbagent.views.moments import Write


def run(name: str, argv: list[str]) -> int:
    """``last DIR EXPR``: 1 where nothing wrote it."""
    options = build(name).parse_args(argv)
    found: list[Write] = []
    with Player(options.recording, options.kernel) as player:
        travel = Traveller(player, debugger_of(player))
        travel.go_to(travel.moment(options.at or "end"))
        while len(found) < options.count:
            one = travel.last(options.expression)
            if one is None:
                break
            found.append(one[0])
    if options.json:
        print_json([write_json(write) for write in found])
    else:
        for write in found:
            print("\n".join(write_rows([write])))
        if not found:
            print(f"nothing wrote {options.expression} before that moment")
    return 0 if found else 1


def build(name: str) -> Parser:
    """The options of `last`."""
    parser = Parser("breenix-gdbagent last")
    parser.add_argument("recording", type=Path, metavar="DIR", help="what `record -o DIR` made")
    parser.add_argument("expression", metavar="EXPR", help="a static, or a field of one")
    parser.add_argument("--at", metavar="ICOUNT|MARKER|end", help="back from there (end)")
    parser.add_argument("--count", type=int, default=10, metavar="N", help="so many (10)")
    parser.add_argument("--kernel", type=Path, metavar="ELF", help="the ELF that was recorded")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser
