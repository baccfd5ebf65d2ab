"""``report``: a snapshot examined again, offline."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.archive import document_of
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.faces import add_face_options, check_faces, write_faces
from breenix_gdbagent.commands.provenance import provenance
from breenix_gdbagent.commands.target import (
    add_target_options,
    description,
    explained_snapshot,
    target_of,
)
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.kernel.view import Kernel


def run(name: str, argv: list[str]) -> int:
    """``report FILE``."""
    parser = Parser("breenix-gdbagent report", description="examine a snapshot again, offline")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE")
    add_target_options(parser, runs=False)
    add_face_options(parser)
    options = parser.parse_args(argv)
    if (options.file is None) == (options.snapshot is None):
        raise InputError("report examines one snapshot", fix="breenix-gdbagent report FILE")
    options.snapshot = options.snapshot or options.file
    target = target_of(options, default_lab=False)
    check_faces(options)
    stop, extra = explained_snapshot(target)
    document = document_of(stop, extra, description(target), provenance(None, 0.0))
    return write_faces(document, options, kernel=Kernel(stop) if options.html else None)
