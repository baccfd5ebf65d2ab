"""``record``: what `ci` does, recorded, so that it can be gone through again in both directions."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.ci import add_ci_options, run_with
from breenix_gdbagent.commands.kept import Kept
from breenix_gdbagent.recording.recorder import Recorder


def run(name: str, argv: list[str]) -> int:
    """``record -o DIR``."""
    options = build(name).parse_args(argv)
    directory, options.output = options.output, None
    options.memory = "kernel"
    return run_with(options, lambda: Kept(Recorder(directory)))


def build(name: str) -> Parser:
    """The options of `record`."""
    parser = Parser("breenix-gdbagent record")
    add_ci_options(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", required=True, help="a new directory"
    )
    return parser
