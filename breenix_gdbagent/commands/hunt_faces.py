"""How a hunt is told: the options that choose, and the exit code."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from breenix_gdbagent.commands.expectations import read_baseline
from breenix_gdbagent.commands.output import coloured, print_json, writable, write_whole
from breenix_gdbagent.errors import OutputError
from breenix_gdbagent.fleet.clusters import Cluster, clusters_of
from breenix_gdbagent.fleet.document import document
from breenix_gdbagent.fleet.store import Store
from breenix_gdbagent.fleet.text import render
from breenix_gdbagent.report.ink import Ink

FILES = ("html", "junit", "write_baseline")


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """--json, --html, --junit, --github, --baseline, --write-baseline, --fail-on."""
    parser.add_argument("--json", action="store_true", help="the hunt as one document on stdout")
    parser.add_argument("--html", type=Path, metavar="OUT", help="one self-contained page")
    parser.add_argument("--junit", type=Path, metavar="OUT", help="JUnit XML")
    parser.add_argument("--github", action="store_true", help="annotations and step summary")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="known clusters, tolerated")
    parser.add_argument(
        "--write-baseline", type=Path, metavar="FILE", help="write the clusters as known ones"
    )
    parser.add_argument(
        "--fail-on", choices=("error", "warning"), default="error",
        help="exit 1 from this severity up (error)",
    )  # fmt: skip


def check_faces(options: argparse.Namespace) -> None:
    """Refuse what cannot be written or read before anything runs. Raises `InputError`."""
    for name in FILES:
        writable(getattr(options, name))
    read_baseline(options.baseline)


def write_faces(store: Store, options: argparse.Namespace) -> int:
    """Write every face that was asked for; the exit code: 1 where a cluster counts."""
    clusters = clusters_of(store)
    known = read_baseline(options.baseline)
    if options.write_baseline is not None:
        known = baseline_of(clusters, options.write_baseline)
    tolerated = frozenset(known)
    _write_files(store, clusters, tolerated, options)
    if options.json:
        print_json(document(store, clusters))
    elif not options.github:
        sys.stdout.write(terminal(store, clusters, tolerated))
    for gone in sorted(
        tolerated - {name for c in clusters for name in (c.fingerprint, *c.members)}
    ):
        print(f"in the baseline and not seen: {gone}", file=sys.stderr)
    weights = {"error"} if options.fail_on == "error" else {"error", "warning"}
    return int(any(c.severity in weights and c.fingerprint not in tolerated for c in clusters))


def baseline_of(clusters: list[Cluster], path: Path) -> tuple[str, ...]:
    """Write all clusters as known from now on, in the form that ``ci`` reads too."""
    import json

    from breenix_gdbagent.commands.expectations import BASELINE_SCHEMA

    prints = sorted({name for c in clusters for name in (c.fingerprint, *c.members)})
    told = {"schema": BASELINE_SCHEMA, "fingerprints": prints}
    write_whole(path, json.dumps(told, indent=1) + "\n")
    return tuple(prints)


def _write_files(
    store: Store, clusters: list[Cluster], tolerated: frozenset[str], options: argparse.Namespace
) -> None:
    if options.html is not None:
        from breenix_gdbagent.fleet.html import render as html

        write_whole(options.html, html(store, clusters))
    if options.junit is not None:
        from breenix_gdbagent.fleet.junit import junit

        write_whole(options.junit, junit(store, clusters, tolerated))
    if options.github:
        _tell_github(store, clusters, tolerated, options.json)


def _tell_github(
    store: Store, clusters: list[Cluster], tolerated: frozenset[str], taken: bool
) -> None:
    """Annotations (stdout may be taken by the document) and, inside a step, its summary."""
    from breenix_gdbagent.fleet.junit import annotate, markdown
    from breenix_gdbagent.report.github import summary

    (sys.stderr if taken else sys.stdout).write(annotate(store, clusters, tolerated))
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if place:
        try:
            with Path(place).open("a", encoding="utf-8") as out:
                out.write(summary(markdown(store, clusters)))
        except OSError as error:
            raise OutputError(f"cannot write the step summary: {error.strerror}") from error


def terminal(store: Store, clusters: list[Cluster], tolerated: frozenset[str]) -> str:
    """As wide as the terminal is, painted only there."""
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    return render(store, clusters, width, Ink(coloured(sys.stdout)), tolerated)
