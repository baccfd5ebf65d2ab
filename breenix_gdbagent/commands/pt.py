"""``pt``: page tables of any target."""

from __future__ import annotations

from collections.abc import Callable

from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.examined import add_run_options
from breenix_gdbagent.commands.target import add_target_options, target_of


def run(name: str, argv: list[str]) -> int:
    """``pt walk | map | who | roots | diff``, see the parser."""
    asked = argv[0] if argv and argv[0] in VERBS else None
    options = build(name, asked).parse_args(argv)
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


def build(name: str, asked: str | None = None) -> Parser:
    """With the options of the verb that is asked for; of all of them where none is."""
    parser = Parser("breenix-gdbagent pt")
    verbs = parser.add_subparsers(
        dest="verb", required=True, parser_class=Parser, prog="breenix-gdbagent pt"
    )
    for name, (what, fill) in VERBS.items():
        if asked in (None, name):
            verb = verbs.add_parser(name, help=what)
            fill(verb)
            add_target_options(verb)
            add_run_options(verb)
            verb.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def _walk(verb: Parser) -> None:
    verb.add_argument("va", nargs="+", metavar="VA", help="addresses; - reads `VA [ROOT]` lines")
    _one_space(verb)


def _map(verb: Parser) -> None:
    verb.add_argument("--range", metavar="FROM-TO", help="only these addresses")
    for flag, what in (("w", "writable"), ("x", "executable"), ("u", "user"), ("s", "supervisor")):
        verb.add_argument(f"-{flag}", action="store_true", help=f"only {what} memory")
    _one_space(verb)


def _who(verb: Parser) -> None:
    asked = verb.add_mutually_exclusive_group(required=True)
    asked.add_argument("pa", nargs="?", metavar="PA", help="a physical address")
    asked.add_argument("--va", metavar="VA", help="what a map of VA would meet in each space")
    _one_space(verb)


def _roots(verb: Parser) -> None:
    """Nothing of its own."""


def _diff(verb: Parser) -> None:
    verb.add_argument("before", metavar="A", help="a ROOT, pid:N, master, or a saved stop")
    verb.add_argument("after", metavar="B", help="the same kind as A")


def _one_space(verb: Parser) -> None:
    verb.add_argument("--root", metavar="CR3", help="the space of this root")
    verb.add_argument("--pid", metavar="N", help="the space of this process")


VERBS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "walk": ("where an address leads, level by level", _walk),
    "map": ("all that one space maps, merged by rights", _map),
    "who": ("who maps a physical address, or has a virtual one", _who),
    "roots": ("every address space", _roots),
    "diff": ("two spaces of one stop (ROOT, pid:N or master each), or two saved stops", _diff),
}
