"""``pt``: page tables of any target."""

from __future__ import annotations

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.examined import add_run_options
from breenix_gdbagent.commands.target import add_target_options, target_of


def run(name: str, argv: list[str]) -> int:
    """``pt walk | map | who | roots | diff``, see the parser."""
    options = _parser().parse_args(argv)
    if options.verb == "diff":
        from breenix_gdbagent.commands import ptstops

        if ptstops.named_by(options):
            return ptstops.between(options)
    target = target_of(options, default_lab=True)
    if options.verb == "walk":
        from breenix_gdbagent.commands.ptwalk import walk_all

        return walk_all(target, options)
    from breenix_gdbagent.commands.ptspaces import answer

    return answer(target, options)


def _parser() -> Parser:
    parser = Parser("breenix-gdbagent pt", description="page tables of any target")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    walk = verbs.add_parser("walk", help="where an address leads, level by level")
    walk.add_argument("va", nargs="+", metavar="VA", help="addresses; - reads `VA [ROOT]` lines")
    mapping = verbs.add_parser("map", help="all that one space maps, merged by rights")
    mapping.add_argument("--range", metavar="FROM-TO", help="only these addresses")
    for flag, what in (("w", "writable"), ("x", "executable"), ("u", "user"), ("s", "supervisor")):
        mapping.add_argument(f"-{flag}", action="store_true", help=f"only {what} memory")
    who = verbs.add_parser("who", help="who maps a physical address, or has a virtual one")
    asked = who.add_mutually_exclusive_group(required=True)
    asked.add_argument("pa", nargs="?", metavar="PA")
    asked.add_argument("--va", metavar="VA", help="what a map of VA would meet in each space")
    roots = verbs.add_parser("roots", help="every address space")
    diff = verbs.add_parser(
        "diff", help="two spaces of one stop (ROOT, pid:N or master each), or two saved stops"
    )
    diff.add_argument("before", metavar="A")
    diff.add_argument("after", metavar="B")
    for verb in (walk, mapping, who, roots, diff):
        add_target_options(verb)
        add_run_options(verb)
        verb.add_argument("--json", action="store_true")
    for verb in (walk, mapping, who):
        verb.add_argument("--root", metavar="CR3")
        verb.add_argument("--pid", metavar="N")
    return parser
