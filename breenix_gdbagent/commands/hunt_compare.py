"""``hunt compare A B``: which clusters are new, gone, more or less frequent."""

from __future__ import annotations

import sys
from pathlib import Path

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.fleet.comparison import compare, document, render
from breenix_gdbagent.fleet.store import Store


def run(name: str, argv: list[str]) -> int:
    """0 where both are alike as far as boots can tell, 1 where they differ."""
    parser = Parser(f"breenix-gdbagent {name}", description="two hunts, A before and B after")
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with Store.open(options.a) as a, Store.open(options.b) as b:
        found = compare(a, b)
    if options.json:
        print_json(document(found))
    else:
        sys.stdout.write(render(found))
    return int(found.differs)
