"""``lab``: the lab guest's scenarios."""

from __future__ import annotations

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.lab import scenario, scenarios


def run(name: str, argv: list[str]) -> int:
    """``lab [SCENARIO] [--json]``. Raises `InputError` for a scenario that is none."""
    parser = Parser("breenix-gdbagent lab", description="the lab guest's scenarios")
    parser.add_argument("scenario", nargs="?", metavar="SCENARIO", help="only that one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    chosen = options.scenario
    table = list(scenarios().values()) if chosen is None else [scenario(chosen)]
    if options.json:
        print_json(
            [
                {"name": s.name, "shows": s.shows, "exit": s.exit, "codes": list(s.codes)}
                for s in table
            ]
        )
        return 0
    width = max(len(s.name) for s in table)
    for s in table:
        print(f"{s.name:<{width}}  exit {s.exit}  {s.shows}")
        if s.codes:
            print(f"{'':<{width}}          {', '.join(s.codes)}")
    print(f"\nRun {'it' if chosen else 'one'}: breenix-gdbagent ci --lab {chosen or 'NAME'}")
    return 0
