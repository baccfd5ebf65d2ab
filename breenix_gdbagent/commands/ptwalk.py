"""``pt walk``: where addresses lead. Nothing of Breenix is needed, so the answer comes at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from breenix_gdbagent.commands.examined import stop_of
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.commands.target import Target
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.location import address_in
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.report.tables import walk_json, walk_text
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.paging import Tables, Walk, walk


def walk_all(target: Target, options: argparse.Namespace) -> int:
    """Answer every question, in order; 1 when one of them is not mapped."""
    with stop_of(target) as stop:
        walks = list(_walks(stop, options))
        if options.json:
            print_json(list[Json](walk_json(one) for one in walks))
        else:
            from breenix_gdbagent.kernel.view import Kernel

            kernel = Kernel(stop)
            for one in walks:
                print(walk_text(kernel, one))
    return 0 if all(one.mapped for one in walks) else 1


def _walks(stop: Stop, options: argparse.Namespace) -> Iterator[Walk]:
    tables = Tables(stop.memory)
    mode = stop.paging
    levels, nxe = (mode.levels, mode.nxe) if mode is not None else (4, None)
    chosen = _root(stop, options)
    for text, named in list(_questions(options.va)):
        root = chosen if named is None else named
        if root is None:
            raise no_root(stop)
        yield walk(tables, root, address_in(text, stop), levels, nxe)


def _root(stop: Stop, options: argparse.Namespace) -> int | None:
    """The root that --root or --pid names, else CR3 of the stop's CPU."""
    if options.root is None and options.pid is None and stop.cpu.paging is not None:
        return stop.cpu.root
    from breenix_gdbagent.commands.ptspaces import chosen_root
    from breenix_gdbagent.kernel.view import Kernel

    return chosen_root(Kernel(stop), options.root, options.pid)


def no_root(stop: Stop) -> InputError:
    """There is none to walk from, and why."""
    return InputError(
        "there is no root to walk from", stop.no_paging, "give --root CR3, or let it run further"
    )


def _questions(given: list[str]) -> Iterator[tuple[str, int | None]]:
    """(address text, root) of each question, stdin's lines in the place of ``-``."""
    for text in given:
        if text != "-":
            yield text, None
            continue
        for number, line in enumerate(sys.stdin, 1):
            words = line.split()
            if not words:
                continue
            root = parse_number(words[1]) if len(words) == 2 else None
            if len(words) > 2 or (len(words) == 2 and root is None):
                raise InputError(
                    f"line {number} of standard input is not `VA [ROOT]`: {line.strip()!r}"
                )
            yield words[0], root
