"""``audit``: all checks on any target."""

from __future__ import annotations

import time

from breenix_gdbagent import archive
from breenix_gdbagent.checks.run import RunFacts
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.examined import add_run_options, kernel_of
from breenix_gdbagent.commands.faces import add_face_options, check_faces, write_faces
from breenix_gdbagent.commands.provenance import provenance
from breenix_gdbagent.commands.target import add_target_options, description, target_of
from breenix_gdbagent.report.document import History, RunRecord


def run(name: str, argv: list[str]) -> int:
    """``audit``: examine one stop; what happened on the way there is the business of `ci`."""
    parser = Parser("breenix-gdbagent audit", description="all checks on any target")
    add_target_options(parser)
    add_run_options(parser)
    add_face_options(parser)
    options = parser.parse_args(argv)
    target = target_of(options, default_lab=False)
    check_faces(options)
    started = time.monotonic()
    with kernel_of(target) as kernel:
        document = archive.finish(
            kernel,
            description(target),
            RunRecord(seconds=kernel.stop.seconds),
            RunFacts(),
            History(),
            provenance=provenance(None, time.monotonic() - started),
        )
        return write_faces(document, options, kernel=kernel)
