"""``pt``: page tables of any target."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.examined import kernel_of
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.commands.target import add_target_options, target_of
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_address, parse_number
from breenix_gdbagent.report.document import spaces_json
from breenix_gdbagent.report.tables import spaces_text, walk_json, walk_text


def run(name: str, argv: list[str]) -> int:
    """``pt walk | roots``, see the parser."""
    options = _parser().parse_args(argv)
    target = target_of(options, default_lab=True)
    with kernel_of(target) as kernel:
        if options.verb == "roots":
            return _roots(kernel, options)
        return _walk(kernel, options)


def _parser() -> Parser:
    parser = Parser("breenix-gdbagent pt", description="page tables of any target")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    walk = verbs.add_parser("walk", help="where an address leads, level by level")
    walk.add_argument(
        "va", nargs="+", metavar="VA", help="addresses, or - to read `VA [ROOT]` lines"
    )
    roots = verbs.add_parser("roots", help="every address space")
    for verb in (walk, roots):
        add_target_options(verb)
        verb.add_argument("--json", action="store_true")
    walk.add_argument("--root", metavar="CR3")
    walk.add_argument("--pid", metavar="N")
    return parser


def _roots(kernel: Kernel, options: argparse.Namespace) -> int:
    if options.json:
        print_json(spaces_json(kernel))
    else:
        print(spaces_text(kernel))
    return 0 if kernel.spaces else 1


def _walk(kernel: Kernel, options: argparse.Namespace) -> int:
    root = chosen_root(kernel, options.root, options.pid)
    questions = [
        (parse_address(va, kernel.stop.image), wanted if wanted is not None else root)
        for va, wanted in _questions(options.va)
    ]
    answers: list[Json] = []
    found = True
    for va, asked in questions:
        if asked is None:
            raise InputError(
                "no CPU has paging on, so there is no root to walk from", fix="give --root CR3"
            )
        walked = kernel.walk(asked, va)
        found &= walked.mapped
        if options.json:
            answers.append(walk_json(walked))
        else:
            print(walk_text(kernel, walked))
    if options.json:
        print_json(answers)
    return 0 if found else 1


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


def chosen_root(kernel: Kernel, root: str | None, pid: str | None) -> int | None:
    """The root that --root or --pid names, else CR3 of the stop's CPU. Raises `InputError`."""
    if root is not None and pid is not None:
        raise InputError("--root and --pid at once", fix="give one")
    if root is not None:
        value = parse_number(root)
        if value is None:
            raise InputError(f"{root!r} is no number", fix="write the CR3 value as 0x...")
        return value
    if pid is not None:
        return _root_of_pid(kernel, pid)
    cpu = kernel.stop.cpu
    return cpu.root if cpu.paging is not None else kernel.reference_root


def _root_of_pid(kernel: Kernel, text: str) -> int:
    pid = parse_number(text)
    if pid is None:
        raise InputError(f"--pid {text!r} is no number")
    for space in kernel.spaces:
        if space.pid == pid:
            return space.root
    known = sorted({s.pid for s in kernel.spaces if s.pid is not None})
    raise InputError(
        f"no address space is known as that of process {pid}",
        f"known pids: {', '.join(map(str, known))}"
        if known
        else "neither the kernel's types nor its serial text name any pid here",
        "list the roots with `pt roots` and give --root " + hex64(0x1000).replace("1000", "..."),
    )
