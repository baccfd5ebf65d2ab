"""``report``: a snapshot's report again, offline."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.formats import add_format_options, check_formats, write_formats
from breenix_gdbagent.commands.provenance import provenance
from breenix_gdbagent.commands.target import (
    Target,
    add_target_options,
    description,
    explained_snapshot,
    target_of,
)
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.mapped import MappedFile
from breenix_gdbagent.report.fields import from_json
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.snapshot.report_trailer import read_trailer


def run(name: str, argv: list[str]) -> int:
    """``report FILE``."""
    options = build(name).parse_args(argv)
    if options.replay is not None and options.file is None:
        from breenix_gdbagent.commands.audit import replay_report

        check_formats(options)
        return replay_report(target_of(options, default_lab=False), time.monotonic())
    if (options.file is None) == (options.snapshot is None):
        raise InputError("report examines one snapshot", fix="breenix-gdbagent report FILE")
    options.snapshot = options.snapshot or options.file
    target = target_of(options, default_lab=False)
    check_formats(options)
    report = _kept(options)
    if report is not None:
        return write_formats(report, options)
    return _examined(target)


def build(name: str) -> Parser:
    """The options of `report`."""
    parser = Parser("breenix-gdbagent report")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the snapshot")
    add_target_options(parser, runs=False)
    add_format_options(parser)
    parser.add_argument(
        "--anew", action="store_true", help="examine it again, also where the file keeps its report"
    )
    return parser


def _kept(options: argparse.Namespace) -> Report | None:
    """The report that the file keeps, where making it again could give no other: made by this
    agent, of these bytes, with that ELF. The maps of the HTML need the stop itself."""
    if options.anew or options.html or options.ram_size:
        return None
    found = read_trailer(options.snapshot)
    if found is None or (options.kernel is not None and not _same(options.kernel, found.elf)):
        return None
    return replace(from_json(Report, found.document), provenance=provenance(None, 0.0))


def _same(elf: Path, sha256: str | None) -> bool:
    import hashlib

    try:
        return hashlib.sha256(MappedFile(elf).data).hexdigest() == sha256
    except InputError:  # told in full by who opens it
        return False


def _examined(target: Target) -> int:
    from breenix_gdbagent.checks.examine import examine, times_of
    from breenix_gdbagent.kernel.view import Kernel
    from breenix_gdbagent.run_report import document_of

    options = target.options
    stop, extra = explained_snapshot(target)
    kernel = Kernel(stop)
    seen = examine(kernel.stop, kernel, time.monotonic)
    document = document_of(kernel, extra, description(target), examined=seen)
    origin = provenance(None, 0.0, times_of(seen, document.stops[-1].id))
    document = replace(document, provenance={**document.provenance, **origin})
    return write_formats(document, options, kernel=kernel if options.html else None)
