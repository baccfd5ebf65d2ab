"""``bt``: the frames of CPUs and threads at one stop."""

from __future__ import annotations

import argparse

from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.report import names as shown
from breenix_gdbagent.views.call_trace import located
from breenix_gdbagent.views.roots import root_of
from breenix_gdbagent.views.thread_traces import (
    Traces,
    number_of,
    of_cpus,
    of_process,
    of_threads,
    others,
)

ALL = 1 << 12
FULL = ("full", "-full")


def bt(kernel: Kernel, options: argparse.Namespace) -> int:
    """Print them. What cannot be followed says why, in its place; 1 when nothing could be."""
    answers: list[Json] = []
    code = 1
    full = options.full or any(word in FULL for word in options.what)
    most = _most(options.what)
    for title, unwind in _wanted(kernel, options):
        try:
            traced = located(kernel, unwind(), ALL if full else 0)
        except ReadError as error:
            answers.append({"of": title, "frames": [], "end": error.what})
            if not options.json:
                print(f"{title}\n     not checked: {error.what}")
            continue
        code = 0
        answers.append({"of": title, **shown.trace_json(traced)})
        if not options.json:
            print(f"{title}\n{shown.trace_text(traced, most)}")
    if options.json:
        print_json(answers)
    elif not kernel.stop.cpus and not answers:
        print(f"not checked: {kernel.stop.no_paging}")
    return code


def _most(words: list[str]) -> int:
    """How many frames: ``5``, or ``-5`` from the other end; 0 for all. Raises `InputError`."""
    counts = [word for word in words if word not in FULL]
    if not counts:
        return 0
    found = parse_number(counts[0].removeprefix("-")) if len(counts) == 1 else None
    if found is None:
        raise InputError(f"{' '.join(counts)!r} is no number of frames", fix="bt 5, bt -5, bt full")
    return -found if counts[0].startswith("-") else found


def _wanted(kernel: Kernel, options: argparse.Namespace) -> Traces:
    if options.pid is not None:
        yield from of_process(kernel, options.pid)
    elif options.thread is not None:
        yield from of_threads(kernel, {number_of(options.thread, "thread")})
    else:
        root = None if options.root is None else root_of(kernel, options.root)
        yield from of_cpus(kernel, options.cpu, root)
        if options.all:
            yield from others(kernel)
