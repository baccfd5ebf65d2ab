"""``report``: a snapshot examined again, offline."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.faces import add_face_options, write_faces
from breenix_gdbagent.commands.target import add_target_options, target_of
from breenix_gdbagent.errors import InputError


def run(name: str, argv: list[str]) -> int:
    """``report FILE``."""
    parser = Parser("breenix-gdbagent report", description="examine a snapshot again, offline")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE")
    add_target_options(parser)
    add_face_options(parser)
    options = parser.parse_args(argv)
    if (options.file is None) == (options.snapshot is None):
        raise InputError("report examines one snapshot", fix="breenix-gdbagent report FILE")
    options.snapshot = options.snapshot or options.file
    target = target_of(options, default_lab=False)
    from breenix_gdbagent.archive import document_of

    document = document_of(target.options.snapshot, target)
    return write_faces(document, options)
