"""``when``: the first moment of a recording at which a finding holds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from breenix_gdbagent import lab
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.names import source_lines
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.report.moments import ReadLines, moments_text, origin_json, origin_text
from breenix_gdbagent.timeline.player import Player
from breenix_gdbagent.timeline.probes import Probes
from breenix_gdbagent.timeline.when import When, in_order, parse_code
from breenix_gdbagent.views.moments import Origin


def run(name: str, argv: list[str]) -> int:
    """``when DIR CODE[@SUBJECT]...``: 0 when all were found, else 1."""
    options = build(name).parse_args(argv)
    if bool(options.codes) == options.every:
        raise InputError(
            "when takes the codes of findings, or --every",
            fix="breenix-gdbagent when DIR CODE[@SUBJECT]; which there are: audit --replay DIR",
        )
    wanted = [parse_code(text) for text in options.codes]
    with Player(options.recording, options.kernel) as player:
        when = When(player, Probes(player, _tell))
        if options.every:
            wanted = [(code, None) for code in when.codes()]
        origins = [when.first(code, subject) for code, subject in wanted]
        _clear()
        return _answer(options, player, origins)


def build(name: str) -> Parser:
    """The options of `when`."""
    parser = Parser("breenix-gdbagent when")
    parser.add_argument("recording", type=Path, metavar="DIR", help="what `record -o DIR` made")
    parser.add_argument(
        "codes", nargs="*", metavar="CODE[@SUBJECT]", help="finding codes (`explain --list`)"
    )
    parser.add_argument("--every", action="store_true", help="each finding of the last stop")
    parser.add_argument("--kernel", type=Path, metavar="ELF", help="the ELF that was recorded")
    parser.add_argument("--source", type=Path, metavar="DIR", help="where the source lies")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def _answer(options: argparse.Namespace, player: Player, origins: list[Origin]) -> int:
    last = player.manifest.end.icount
    several = options.every or len(origins) > 1
    if several:
        origins = in_order(origins)
    if options.json:
        told = [origin_json(one) for one in origins]
        print_json({"moments": list(told)} if several else told[0])
    else:
        if several:
            print(moments_text(origins) if origins else "nothing was found where it ends")
            print()
        read = reader(options.source)
        print("\n\n".join(origin_text(one, read, last) for one in origins))
    return 0 if all(one.status == "found" for one in origins) else 1


def reader(source: Path | None) -> ReadLines:
    """Source lines: of the directory named, of our own lab guest, else where DWARF says."""
    places = (source, *lab.sources(), None)

    def read(file: str, line: int) -> list[tuple[int, str]]:
        return next((found for p in places if (found := source_lines(file, line, p))), [])

    return read


def _tell(count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{count} moments examined", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
