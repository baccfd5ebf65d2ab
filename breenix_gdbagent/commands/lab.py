"""``lab``: the lab guest's scenarios."""

from __future__ import annotations

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.lab import ARCHITECTURES, X86_64, Scenario, scenario, scenarios, sometimes


def run(name: str, argv: list[str]) -> int:
    """``lab [SCENARIO] [--arch ARCH] [--json]``. Raises `InputError` for an unknown scenario."""
    options = build(name).parse_args(argv)
    chosen = options.scenario
    arch = options.arch
    rows = sometimes(arch) if options.sometimes else scenarios(arch)
    table = list(rows.values()) if chosen is None else [scenario(chosen, arch)]
    if options.json:
        print_json([_row(s) for s in table])
        return 0
    width = max(len(s.name) for s in table)
    for s in table:
        often = f" in {s.sometimes} of 100 boots" if s.sometimes else ""
        print(f"{s.name:<{width}}  exit {s.exit}{often}  {s.shows}")
        if s.codes:
            print(f"{'':<{width}}          {', '.join(s.codes)}")
    more = "" if arch == X86_64 else f" --arch {arch}"
    what = ("it", chosen) if chosen else ("one", "NAME")
    print(f"\nRun {what[0]}: breenix-gdbagent ci --lab {what[1]}{more}")
    return 0


def _row(one: Scenario) -> dict[str, Json]:
    """One scenario; `percent` of those that fault only at times."""
    row: dict[str, Json] = {
        "name": one.name,
        "shows": one.shows,
        "exit": one.exit,
        "codes": list(one.codes),
    }
    return {**row, "percent": one.sometimes} if one.sometimes else row


def build(name: str) -> Parser:
    """The options of `lab`."""
    parser = Parser("breenix-gdbagent lab")
    parser.add_argument("scenario", nargs="?", metavar="SCENARIO", help="only that one")
    parser.add_argument("--arch", choices=ARCHITECTURES, default=X86_64, help="of which guest")
    more = "those that fault only in some boots, for hunt"
    parser.add_argument("--sometimes", action="store_true", help=more)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser
