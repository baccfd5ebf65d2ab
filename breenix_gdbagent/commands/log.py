"""``log``: serial text of a run or snapshot, all ports in order of arrival."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from breenix_gdbagent.commands import Parser, seconds
from breenix_gdbagent.commands.output import coloured, print_json
from breenix_gdbagent.commands.stdout import reader_left
from breenix_gdbagent.commands.target import add_target_options, opened_snapshot, target_of
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.memory.elf_header import is_elf
from breenix_gdbagent.patterns import compiled
from breenix_gdbagent.report import logview
from breenix_gdbagent.report.fields import from_json
from breenix_gdbagent.report.ink import PLAIN, Ink
from breenix_gdbagent.report.model import ShownStop
from breenix_gdbagent.report.seriallog import LEVELS, Growing, LogLine, lines_of, place_of
from breenix_gdbagent.report.story import objects, record, stop_words
from breenix_gdbagent.stop import SerialChunk, SerialText, Stop

if TYPE_CHECKING:
    from breenix_gdbagent.live import LiveVm

AROUND = 12
REFRESH_SECONDS = 0.05


def run(name: str, argv: list[str]) -> int:
    """``log FILE [QUERY]``; ``log --follow`` with a target that runs. 1 when no line is found."""
    options = build(name).parse_args(argv)
    return _follow(options) if options.follow else _show(options)


def build(name: str) -> Parser:
    """The options of `log`."""
    parser = Parser("breenix-gdbagent log")
    parser.add_argument(
        "words", nargs="*", metavar="FILE [QUERY]", help="QUERY: regular expression"
    )
    parser.add_argument("--level", choices=LEVELS, help="lines of this level and above")
    parser.add_argument("--port", type=int, action="append", metavar="N", help="COM<N>, from 1")
    parser.add_argument("-C", "--context", type=int, metavar="N", help="lines around each")
    parser.add_argument("--around", metavar="CODE", help="lines around a finding")
    parser.add_argument("--tail", type=int, metavar="N", help="only the last N")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--follow", action="store_true", help="a target that runs, as it speaks")
    parser.add_argument("--until", metavar="REGEX", help="a target that runs: stop there")
    parser.add_argument(
        "--timeout", type=seconds, metavar="S", help="a target that runs: at most so long"
    )
    add_target_options(parser)
    return parser


def _show(options: argparse.Namespace) -> int:
    targets = ("lab", "breenix", "image", "config", "gdb")
    runs = any(getattr(options, name) is not None for name in targets)
    named = runs or options.snapshot is not None
    if not named and not options.words:
        raise InputError("no file and no target named", fix="breenix-gdbagent log FILE [QUERY]")
    rest = options.words if named else options.words[1:]
    if len(rest) > 1:
        raise InputError(f"one query, not {len(rest)}", fix="quote a query that has spaces")
    choice = _choice(options, rest[0] if rest else None)
    if runs:
        lines, places, stops = _run(options)
    else:
        lines, places, stops = _read(options, options.snapshot or Path(options.words[0]))
    if options.around is not None:
        context = AROUND if options.context is None else options.context
        choice = logview.Choice(ports=choice.ports, context=context, around=places)
    shown = logview.chosen(lines, choice)
    if options.tail is not None:
        shown = shown[-options.tail :] if options.tail > 0 else []
    if options.json:
        print_json(logview.json_of(shown))
    elif shown:
        ports = len({line.port for line in lines})
        sys.stdout.write(logview.text_of(shown, stops, ports, _ink()))
    else:
        print("no such line")
    return int(not shown)


def _ink() -> Ink:
    return Ink(True) if coloured(sys.stdout) else PLAIN


def _choice(options: argparse.Namespace, query: str | None) -> logview.Choice:
    pattern = compiled(query) if query is not None else None
    if options.port and min(options.port) < 1:
        raise InputError("ports are counted from 1: COM1 is --port 1")
    ports = frozenset(p - 1 for p in options.port) if options.port else None
    return logview.Choice(pattern, options.level, ports, options.context or 0)


def _plain(path: Path) -> bytes | None:
    """All of a text file or a pipe (``<(zcat FILE)``), read once; None for an ELF file. A FIFO
    that nobody writes to is empty and holds nobody up. Raises `InputError`."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as file:
            mode = os.fstat(opened).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
                raise InputError(
                    f"{path} is neither a file nor a pipe", fix="name a text file or a snapshot"
                )
            os.set_blocking(opened, True)
            head = file.read(4)
            return None if is_elf(head) else head + file.read()
    except OSError as error:
        raise InputError(
            f"cannot read {path}", error.strerror or str(error), "name a text file or a snapshot"
        ) from error


Read = tuple[list[LogLine], tuple[int, ...], Mapping[tuple[int, int], str]]


def _run(options: argparse.Namespace) -> Read:
    """The lines of a target that runs: of one that we boot those until its end, of one that we
    attach to what its serial file holds. Raises `InputError`."""
    from breenix_gdbagent.commands.examined import DEFAULT_SECONDS, stop_of

    target = target_of(options, default_lab=False)
    options.timeout = options.timeout or DEFAULT_SECONDS
    with stop_of(target) as stop:
        if not stop.serial.chunks:
            raise InputError(
                "the guest has no serial text",
                "it had written nothing, or where its serial line goes was not named"
                if target.boots
                else "what it wrote before we came is in no file that was named",
                "with --gdb: --serial FILE names the file that QEMU writes it to",
            )
        if options.around is not None:
            return _around(stop, None, options.around)
        lines = lines_of(stop.serial)
        return lines, (), _stops_of_run(lines, stop, None)


def _read(options: argparse.Namespace, path: Path) -> Read:
    """The lines, where the finding asked for is (their indices), and what stops came where."""
    options.snapshot = path
    target = target_of(options, default_lab=False)
    text = _plain(path)
    if text is not None:
        if options.around is not None:
            raise InputError("--around needs a snapshot", f"{path.name} is plain text")
        plain = SerialText((SerialChunk(0, 0.0, text),))
        return [replace(line, seconds=None) for line in lines_of(plain)], (), {}
    stop, extra = opened_snapshot(target)
    if not stop.serial.chunks:
        why = "the guest had written nothing, or no serial line was connected"
        raise InputError(
            f"{path.name} has no serial text",
            why if extra is not None else "a bare core of QEMU's carries none",
        )
    if options.around is not None:
        return _around(stop, extra, options.around)
    lines = lines_of(stop.serial)
    return lines, (), _stops_of_run(lines, stop, extra)


def _stops_of_run(
    lines: list[LogLine], stop: Stop, extra: Mapping[str, Json] | None
) -> dict[tuple[int, int], str]:
    """Earlier stops of the run out of the snapshot's note, and the last one."""
    history = record((extra or {}).get("history") or {})
    earlier = [from_json(ShownStop, stop) for stop in objects(history.get("stops"))]
    found = _places(lines, earlier)
    if lines and stop.reason.kind != "core":
        vector = f", vector {stop.reason.vector}" if stop.reason.vector is not None else ""
        said = f"stop {len(earlier)}: {stop.reason.kind}{vector}"
        found[lines[-1].port, lines[-1].number] = said
    return found


def _places(lines: list[LogLine], stops: Sequence[ShownStop]) -> dict[tuple[int, int], str]:
    """(port, line) of the last line before each stop -> the stop in words."""
    found: dict[tuple[int, int], str] = {}
    for stop in stops:
        place = place_of(lines, stop)
        if place is not None:
            line = lines[place]
            found[line.port, line.number] = f"stop {stop.id}: {stop_words(stop)}"
    return found


def _around(
    stop: Stop, extra: Mapping[str, Json] | None, code: str
) -> tuple[list[LogLine], tuple[int, ...], dict[tuple[int, int], str]]:
    from breenix_gdbagent.run_report import document_of

    document = document_of(stop, extra, {"kind": "snapshot"})
    findings = [f for f in document.findings if f.code == code]
    if not findings:
        known = sorted({f.code for f in document.findings})
        raise InputError(f"no finding {code} there", f"there are: {', '.join(known) or 'none'}")
    wanted = {f.stop for f in findings}
    stops = [s for s in document.stops if s.id in wanted]
    lines = lines_of(stop.serial)
    places = (place_of(lines, one) for one in stops)
    return lines, tuple(p for p in places if p is not None), _places(lines, stops)


def _follow(options: argparse.Namespace) -> int:
    """Print lines as they arrive until the guest ends, --until, --timeout or Ctrl-C."""
    from breenix_gdbagent.commands.machines import open_machine

    choice = _choice(options, options.words[0] if options.words else None)
    target = target_of(options, default_lab=False, must_run=True)
    machine = open_machine(target)
    with machine.vm as vm, _Follower(vm, choice, options.json):
        vm.run_until([options.until] if options.until else [], options.timeout)
    return 0


class _Follower:
    """Prints finished lines from a thread of its own while the context lasts, the rest at its
    end."""

    def __init__(self, vm: LiveVm, choice: logview.Choice, as_json: bool) -> None:
        self._vm = vm
        self._choice = choice
        self._json = as_json
        self._done = threading.Event()
        self._lines = Growing()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._done.set()
        self._thread.join()
        self._print(self._vm.serial, unfinished=True)

    def _watch(self) -> None:
        while not self._done.wait(REFRESH_SECONDS):
            self._print(self._vm.serial, unfinished=False)

    def _print(self, serial: SerialText, unfinished: bool) -> None:
        shown = logview.chosen(self._lines.take(serial, unfinished), self._choice)
        if self._json:
            for row in logview.json_of(shown):
                print_json(row)
        elif shown:
            sys.stdout.write(logview.text_of(shown, {}, 2, _ink()))
            sys.stdout.flush()
        if reader_left() and not self._done.is_set():
            self._done.set()
            self._vm.ask_to_stop()  # nobody reads on
