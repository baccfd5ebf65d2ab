"""``trace``: lines that one wishes the kernel had printed, from a recording: no rebuild, and not a
nanosecond of its timing touched."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.debugger.user_breakpoints import checkpoint_of
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.timeline.player import Player
from breenix_gdbagent.timeline.travel import Traveller, debugger_of


def run(name: str, argv: list[str]) -> int:
    """``trace DIR 'LOCATION EXPR, ... if COND'...``: 1 where nothing was hit."""
    options = build(name).parse_args(argv)
    rows: list[Json] = []
    with Player(options.recording, options.kernel) as player:
        debugger = debugger_of(player)
        debugger.catching = "none"
        travel = Traveller(player, debugger)
        for text in options.points:
            try:
                image = debugger.loaded_or_linked
                point = checkpoint_of(text, image, debugger.table.number())
                point.compact = False
                debugger.add(point)
            except ReadError as error:
                raise InputError(error.what, error.why, error.fix) from error

        def say(line: str) -> None:
            at = travel.position
            row: dict[str, Json] = {
                "icount": at,
                "seconds": round(player.vm.seconds_at(at), 6),
                "text": line.split(None, 1)[-1] if line[:1].isspace() else line,
            }
            rows.append(row)
            if not options.json:
                print(f"{at:>14,}  {row['seconds']:.6f} s  {row['text']}")

        debugger.say = say
        travel.go_to(travel.moment(str(player.manifest.begin)))
        debugger.go()
        if not travel.vm.at_end():
            raise InputError("the trace did not come to the end of the recording")
    if options.json:
        print_json(rows)
    return 0 if rows else 1


def build(name: str) -> Parser:
    """The options of `trace`."""
    parser = Parser("breenix-gdbagent trace")
    parser.add_argument("recording", type=Path, metavar="DIR", help="what `record -o DIR` made")
    parser.add_argument(
        "points", nargs="+", metavar="'LOCATION [EXPR, ...] [if COND]'",
        help="where, and what to print",
    )  # fmt: skip
    parser.add_argument("--kernel", type=Path, metavar="ELF", help="the ELF that was recorded")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser
