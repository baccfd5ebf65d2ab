"""``lint``: the code by which a CPU enters and leaves the kernel, read without booting."""

from __future__ import annotations

import sys
from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.errors import InputError


def run(name: str, argv: list[str]) -> int:
    """``lint --kernel ELF [--json]``: 0 nothing wrong, 1 something is, 2 not to be read."""
    options = build(name).parse_args(argv)
    from breenix_gdbagent.entrycode.lint import lint
    from breenix_gdbagent.report.entrycode import lint_json, lint_text
    from breenix_gdbagent.symbols import Image

    image = Image.open(options.kernel)
    if not image.has_symbols:
        raise InputError(
            f"{options.kernel.name} has no symbol table",
            "where its entries begin cannot be told without",
            "give the ELF as it was linked, not the stripped one",
        )
    found = lint(image)
    if not found.read:
        raise InputError(
            f"{options.kernel.name} has no iretq and no sysretq",
            "nothing in it leaves to an interrupted program",
            "is it the kernel?",
        )
    if options.json:
        print_json(lint_json(found))
    else:
        sys.stdout.write(lint_text(found))
    return int(bool(found.defects))


def build(name: str) -> Parser:
    """The options of `lint`."""
    parser = Parser("breenix-gdbagent lint")
    parser.add_argument(
        "--kernel", type=Path, metavar="ELF", required=True, help="the kernel's ELF"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser
