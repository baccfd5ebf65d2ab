"""``pt walk``: where addresses lead. Needs page tables alone, so nothing of a kernel is loaded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.commands.examined import stop_of
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.commands.target import Target
from breenix_gdbagent.errors import InputError, ReadError, SymbolNotFound
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.location import address_in
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.report.fields import to_json
from breenix_gdbagent.report.shown_walk import shown_walk
from breenix_gdbagent.stop import Stop


def walk_all(target: Target, options: argparse.Namespace) -> int:
    """Answer every question, in order; 1 when one of them is not mapped."""
    with stop_of(target, hidden=False) as stop:
        walks = list(_walks(stop, options))
        if options.json:
            print_json(list[Json](to_json(shown_walk(one)) for one in walks))
        else:
            from breenix_gdbagent.kernel.view import Kernel
            from breenix_gdbagent.report.tables import walk_text
            from breenix_gdbagent.views.space_listing import root_label

            kernel = Kernel(stop)
            # Who was named by pid is called as `pt roots` calls it; else that costs the DWARF.
            named = options.pid is not None
            labels = {
                root: root_label(kernel, root, typed=named)
                for root in dict.fromkeys(one.root for one in walks)
            }
            for one in walks:
                print(walk_text(one, labels[one.root], kernel.symbol(one.va)))
    return 0 if all(one.mapped for one in walks) else 1


def _walks(stop: Stop, options: argparse.Namespace) -> Iterator[Walk]:
    tables = Tables(stop.memory)
    walk, mode = stop.arch.paging.walk, stop.paging
    questions = list(_questions(options.va))
    # A root that each line of stdin names is asked for nowhere else.
    ours = _root(stop, options) if any(named is None for _, named in questions) else 0
    for text, named in questions:
        root = ours if named is None else named
        yield walk(tables, root, _address(stop, text), mode)


def _address(stop: Stop, text: str) -> int:
    """A number or a symbol; what is neither is an expression, for which the kernel is read."""
    try:
        return address_in(text, stop)
    except (InputError, ReadError) as error:
        from breenix_gdbagent.evaluation.evaluation import Evaluation
        from breenix_gdbagent.evaluation.expressions import address_at
        from breenix_gdbagent.kernel.view import Kernel

        try:
            return address_at(Evaluation.of(Kernel(stop)), text)
        except SymbolNotFound:
            raise error from None


def _root(stop: Stop, options: argparse.Namespace) -> int:
    """The root that --root or --pid names, else CR3 of the stop's CPU."""
    root = stop.cpu.root if stop.cpu.paging is not None else None
    if options.root is None and options.pid is None and root is not None:
        return root
    from breenix_gdbagent.kernel.view import Kernel
    from breenix_gdbagent.views.roots import root_of

    return root_of(Kernel(stop), options.root, options.pid)


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
