"""``diff``: two snapshots, working against broken."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import coloured, print_json, writable, write_whole
from breenix_gdbagent.commands.target import Target, description, explained_snapshot
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report import diffview
from breenix_gdbagent.report.diff import Side, compare
from breenix_gdbagent.run_report import document_of
from breenix_gdbagent.views.comparison import compare_stops


def run(name: str, argv: list[str]) -> int:
    """``diff A B``: 0 when they are the same, 1 when they differ."""
    options = build(name).parse_args(argv)
    writable(options.html)
    first, one = _side(options, options.a, options.kernel)
    second, other = _side(options, options.b, options.kernel_b or options.kernel)
    found = compare(first, second, compare_stops(one, other))
    if options.html is not None:
        write_whole(options.html, diffview.html(found))
    if options.json:
        print_json(found)
    else:
        wide = sys.stdout.isatty()
        width = shutil.get_terminal_size((100, 24)).columns if wide else 100
        sys.stdout.write(diffview.text(found, width, coloured(sys.stdout)))
    return int(bool(found["differs"]))


def build(name: str) -> Parser:
    """The options of `diff`."""
    parser = Parser("breenix-gdbagent diff")
    parser.add_argument("a", type=Path, metavar="A", help="the snapshot of the working run")
    parser.add_argument("b", type=Path, metavar="B", help="the snapshot of the broken run")
    parser.add_argument("--kernel", type=Path, metavar="ELF", help="the kernel's ELF of both")
    parser.add_argument("--kernel-b", type=Path, metavar="ELF", help="that of B, where it differs")
    parser.add_argument("--ram-size", metavar="SIZE|RANGES", help="RAM of bare cores")
    parser.add_argument("--json", action="store_true", help="the comparison on stdout")
    parser.add_argument("--html", type=Path, metavar="OUT", help="one self-contained page")
    return parser


def _side(options: argparse.Namespace, path: Path, kernel: Path | None) -> tuple[Side, Kernel]:
    chosen = argparse.Namespace(snapshot=path, kernel=kernel, ram_size=options.ram_size)
    target = Target("snapshot", chosen)
    stop, extra = explained_snapshot(target)
    return Side(path.name, document_of(stop, extra, description(target))), Kernel(stop)
