"""``hunt report DIR``: a hunt that was made, told again."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.hunt_faces import add_face_options, check_faces, write_faces
from breenix_gdbagent.fleet.store import Store


def run(name: str, argv: list[str]) -> int:
    """``hunt report DIR``: 1 where an error was found, as of the hunt itself."""
    options = build(name).parse_args(argv)
    check_faces(options)
    with Store.open(options.directory) as store:
        return write_faces(store, options)


def build(name: str) -> Parser:
    """The options of `hunt report`."""
    parser = Parser(f"breenix-gdbagent {name}")
    parser.add_argument("directory", type=Path, metavar="DIR", help="what `hunt -o DIR` made")
    add_face_options(parser)
    return parser
