"""The options that choose a report's faces, and writing them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.commands.output import print_json, writable, write_whole
from breenix_gdbagent.errors import InputError, OutputError
from breenix_gdbagent.report.text import objects, render

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.view import Kernel
    from breenix_gdbagent.report.document import Document
    from breenix_gdbagent.report.htmltrace import ReadSource


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """--json, --html, --markdown, --junit, --github, --fail-on."""
    parser.add_argument("--json", action="store_true", help="the report document on stdout")
    parser.add_argument("--html", type=Path, metavar="OUT")
    parser.add_argument("--markdown", nargs="?", const=Path("-"), type=Path, metavar="OUT")
    parser.add_argument("--junit", type=Path, metavar="OUT")
    parser.add_argument("--github", action="store_true", help="annotations and step summary")
    parser.add_argument("--fail-on", choices=("error", "warning"), default="error")


def check_faces(options: argparse.Namespace) -> None:
    """Refuse unwritable outputs, and two answers on one stream, before anything runs."""
    if options.json and str(options.markdown) == "-":
        raise InputError(
            "--json and --markdown would both go to stdout", fix="name a file: --markdown OUT"
        )
    for path in (options.html, options.markdown, options.junit):
        if path is not None and str(path) != "-":
            writable(path)


def verdict(document: Document, fail_on: str) -> int:
    """0 or 1: whether a finding weighs as much as `fail_on`."""
    weights = {"error"} if fail_on == "error" else {"error", "warning"}
    return int(any(f["severity"] in weights for f in objects(document["findings"])))


def write_faces(
    document: Document,
    options: argparse.Namespace,
    code: int | None = None,
    kernel: Kernel | None = None,
) -> int:
    """Write every face asked for; returns the exit code. With the stop still at hand (`kernel`)
    the HTML draws every mapping."""
    failed = None
    for path, made in _files(document, options, kernel):
        try:
            write_whole(path, made())
        except OutputError as error:  # told after the others and the terminal's
            failed = failed or error
    if options.github:
        _tell_github(document, options.json)
    if options.json:
        print_json(document)
    elif str(options.markdown) == "-":
        from breenix_gdbagent.report.markdown import render as markdown

        sys.stdout.write(markdown(document))
    elif not options.github:
        sys.stdout.write(_for_terminal(document))
    if failed is not None:
        raise failed
    return verdict(document, options.fail_on) if code is None else code


def _files(
    document: Document, options: argparse.Namespace, kernel: Kernel | None
) -> Iterator[tuple[Path, Callable[[], str]]]:
    """The faces that go into files, each with what makes it."""
    if options.html is not None:
        from breenix_gdbagent.report.html import render as html

        yield options.html, lambda: html(document, kernel, _source_reader(options))
    if options.markdown is not None and str(options.markdown) != "-":
        from breenix_gdbagent.report.markdown import render as markdown

        yield options.markdown, lambda: markdown(document)
    if options.junit is not None:
        from breenix_gdbagent.report.junit import render as junit

        yield options.junit, lambda: junit(document)


def _source_reader(options: argparse.Namespace) -> ReadSource:
    """Lines of source files: of the checkout named, of our own lab guest, else as DWARF has it."""
    from breenix_gdbagent.commands.names import source_lines

    ours = Path(__file__).parents[2] / "fixtures"
    places = (getattr(options, "breenix", None), ours if ours.is_dir() else None, None)

    def read(file: str, line: int) -> list[tuple[int, str]]:
        return next((found for p in places if (found := source_lines(file, line, p))), [])

    return read


def _for_terminal(document: Document) -> str:
    """Text as wide as the terminal is, painted only there; 100 columns into a pipe."""
    if not sys.stdout.isatty():
        return render(document, 100)
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    import shutil

    return render(document, shutil.get_terminal_size((100, 24)).columns, colour)


def _tell_github(document: Document, json_on_stdout: bool) -> None:
    """Annotations (GitHub reads both streams) and, inside a step, its summary."""
    from breenix_gdbagent.report.github import annotate, summary
    from breenix_gdbagent.report.markdown import render as markdown

    (sys.stderr if json_on_stdout else sys.stdout).write(annotate(document))
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if place:
        try:
            with Path(place).open("a", encoding="utf-8") as out:
                out.write(summary(markdown(document)))
        except OSError as error:
            raise OutputError(f"cannot write the step summary: {error.strerror}") from error
