"""The options that choose a report's output formats (text, JSON, HTML, JUnit, ...), and writing
them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.commands.output import coloured, print_json, writable, write_whole
from breenix_gdbagent.errors import InputError, OutputError
from breenix_gdbagent.report.story import record
from breenix_gdbagent.report.text import render

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.view import Kernel
    from breenix_gdbagent.report.htmltrace import ReadSource
    from breenix_gdbagent.report.model import Report


FILES = ("html", "markdown", "junit", "sarif")
"""The options that say where a face goes: a file, or stdout (``-``)."""


def add_format_options(parser: argparse.ArgumentParser) -> None:
    """--json, --html, --markdown, --junit, --sarif, --github, --fail-on."""
    parser.add_argument("--json", action="store_true", help="the report document on stdout")
    parser.add_argument("--html", type=Path, metavar="OUT", help="one self-contained page")
    parser.add_argument(
        "--markdown", nargs="?", const=Path("-"), type=Path, metavar="OUT",
        help="Markdown into OUT, or on stdout",
    )  # fmt: skip
    parser.add_argument("--junit", type=Path, metavar="OUT", help="JUnit XML: a test case a check")
    parser.add_argument("--sarif", type=Path, metavar="OUT", help="SARIF 2.1.0, for code views")
    parser.add_argument("--github", action="store_true", help="annotations and step summary")
    parser.add_argument("-v", "--verbose", action="store_true", help="consequences in full, too")
    parser.add_argument(
        "--fail-on", choices=("error", "warning"), default="error",
        help="exit 1 from this severity up (error)",
    )  # fmt: skip


def check_formats(options: argparse.Namespace) -> None:
    """Refuse unwritable outputs, and two answers on one stream, before anything runs."""
    answers = ["--json"] if options.json else []
    for name in FILES:
        path = getattr(options, name)
        if _is_stdout(path):
            answers.append(f"--{name}")
        elif path is not None:
            writable(path)
    if len(answers) > 1:
        raise InputError(
            f"{' and '.join(answers)} would both go to stdout",
            fix=f"name a file: {answers[-1]} OUT",
        )


def _is_stdout(path: Path | None) -> bool:
    """Whether it is ``-``."""
    return str(path) == "-"


def verdict(report: Report, fail_on: str) -> int:
    """0 or 1: whether a finding weighs as much as `fail_on`."""
    weights = {"error"} if fail_on == "error" else {"error", "warning"}
    return int(any(f.severity in weights for f in report.findings))


def write_formats(
    report: Report,
    options: argparse.Namespace,
    code: int | None = None,
    kernel: Kernel | None = None,
) -> int:
    """Write every face asked for; returns the exit code. With the stop still at hand (`kernel`)
    the HTML draws every mapping."""
    failed = None
    answer = None
    for path, make in _made(report, options, kernel):
        if _is_stdout(path):
            answer = make
            continue
        try:
            write_whole(path, make())
        except OutputError as error:  # told after the others and the terminal's
            failed = failed or error
    if options.github:
        _tell_github(report, options.json or answer is not None)
    if options.json:
        print_json(report.to_json())
    elif answer is not None:
        sys.stdout.write(answer())
    elif not options.github:
        sys.stdout.write(_for_terminal(report, options.verbose))
    if failed is not None:
        raise failed
    return verdict(report, options.fail_on) if code is None else code


def _made(
    report: Report, options: argparse.Namespace, kernel: Kernel | None
) -> Iterator[tuple[Path, Callable[[], str]]]:
    """The faces that go where an option says, each with what makes it."""
    if options.html is not None:
        from breenix_gdbagent.report.html import render as html
        from breenix_gdbagent.views.stop_detail import stop_detail

        yield (
            options.html,
            lambda: html(
                report,
                None if kernel is None else stop_detail(kernel),
                _source_reader(options),
            ),
        )
    if options.markdown is not None:
        from breenix_gdbagent.report.markdown import render as markdown

        yield options.markdown, lambda: markdown(report)
    if options.junit is not None:
        from breenix_gdbagent.report.junit import render as junit

        yield options.junit, lambda: junit(report, _began(report), os.uname().nodename)
    if options.sarif is not None:
        from breenix_gdbagent.report.sarif import render as sarif

        yield options.sarif, lambda: sarif(report)


def _began(report: Report) -> str:
    """When what the document tells was begun, as JUnit has it: UTC, to the second."""
    took = record(report.provenance.get("timings", {})).get("total")
    seconds = took if isinstance(took, int | float) else 0.0
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - seconds))


def _source_reader(options: argparse.Namespace) -> ReadSource:
    """Lines of source files: of the checkout named, of our own lab guest, else as DWARF has it."""
    from breenix_gdbagent.commands.names import source_lines

    ours = Path(__file__).parents[2] / "fixtures"
    places = (getattr(options, "breenix", None), ours if ours.is_dir() else None, None)

    def read(file: str, line: int) -> list[tuple[int, str]]:
        return next((found for p in places if (found := source_lines(file, line, p))), [])

    return read


def _for_terminal(report: Report, verbose: bool) -> str:
    """Text as wide as the terminal is, painted only there; 100 columns into a pipe."""
    colour = coloured(sys.stdout)
    if not sys.stdout.isatty():
        return render(report, 100, colour, verbose)
    import shutil

    return render(report, shutil.get_terminal_size((100, 24)).columns, colour, verbose)


def _tell_github(report: Report, taken: bool) -> None:
    """Annotations (GitHub reads both streams; stdout may be `taken` by an answer) and, inside a
    step, its summary."""
    from breenix_gdbagent.report.github import annotate, summary
    from breenix_gdbagent.report.markdown import render as markdown

    (sys.stderr if taken else sys.stdout).write(annotate(report))
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if place:
        try:
            with Path(place).open("a", encoding="utf-8") as out:
                out.write(summary(markdown(report)))
        except OSError as error:
            raise OutputError(f"cannot write the step summary: {error.strerror}") from error
